"""Raw columns of a Polars frame: dense values, and categorical values as flat lists."""

import dataclasses
import datetime
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.kernels import normal_form
from keras_dlrm.data.kernels.string_hash import LONGEST, buckets
from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.hashing import LARGEST, fold
from keras_dlrm.schema.packing import Lists, kept
from keras_dlrm.support.values import is_missing

SEPARATOR = "|"
NUMBER = "must be a number, or empty if missing"


@dataclasses.dataclass(frozen=True)
class Where:
    """Source of a frame, for error messages.

    Args:
        source: File name, or empty.
        first_row: Number of the frame's first row in it, counted from 0.
    """

    source: str = ""
    first_row: int = 0

    def at(self, row: int) -> str:
        """`"log.csv, row 12"`, for row `row` of the frame."""
        return f"{self.source + ', ' if self.source else ''}row {self.first_row + row}"

    def of(self, name: str) -> str:
        """`"log.csv, column 'city'"`."""
        return f"{self.source + ', ' if self.source else ''}column {name!r}"


def frame(data: Any, names: Sequence[str], where: Where, times: Collection[str] = ()) -> pl.DataFrame:
    """The named columns of a table: a frame of Polars (a lazy one, too) or pandas, an Arrow table, or a mapping.

    Those of `times` may hold dates of pandas, NumPy or Python.

    `KeyError` where a column is missing, `TypeError` for what is no table or no column, `ValueError` for unequal lengths.
    """
    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    elif _is_pandas(data):
        data = {str(name): values for name, values in data.items()}
    elif hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        data = pl.DataFrame(data)
    elif not isinstance(data, Mapping):
        raise TypeError(f"expected a DataFrame or a mapping of named columns, not {type(data).__name__}.")
    present = data.columns if isinstance(data, pl.DataFrame) else list(data)
    source = f"{where.source}: " if where.source else ""
    for name in names:
        if name not in present:
            raise KeyError(f"{source}column {name!r} is missing; there are {[str(n) for n in present]}.")
    series = {name: normal_form.column(name, _moments(data[name]) if name in times else data[name]) for name in names}
    first = next(iter(series))
    for name, values in series.items():
        if len(values) != len(series[first]):
            other = f"{first!r} has {len(series[first])}"
            raise ValueError(f"{source}column {name!r} has {len(values)} rows but {other}; they must agree.")
    return pl.DataFrame(series)


def _moments(values: Any) -> Any:
    """Dates of pandas, NumPy or Python as a Polars series; other values as they are."""
    if isinstance(values, pl.Series):
        return values
    kind = getattr(getattr(values, "dtype", None), "kind", "O")
    if kind == "M":  # pandas gives those of a time zone as of UTC
        array = values.to_numpy("datetime64[us]") if hasattr(values, "to_numpy") else values.astype("datetime64[us]")
        return pl.Series(array)
    moments = [None if is_missing(value) else value for value in values] if kind == "O" else []
    dates = [value for value in moments if value is not None]
    return pl.Series(moments) if dates and all(isinstance(value, datetime.date) for value in dates) else values


def _is_pandas(data: Any) -> bool:
    return hasattr(data, "iloc") and hasattr(data, "columns")


def is_table(data: Any) -> bool:
    """True where `frame` accepts the data: named columns, not a single one."""
    if len(getattr(data, "shape", (0, 0))) == 1:  # a series of pandas or Polars
        return False
    arrow = hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")
    return arrow or _is_pandas(data) or isinstance(data, (Mapping, pl.LazyFrame))


def frames(data: Any, names: Sequence[str], times: Collection[str] = ()) -> Iterator[tuple[pl.DataFrame, Where]]:
    """One or many tables, as `frame` takes them, or pairs `(table, Where)` → pairs with the named columns, if any."""
    if not names:
        return
    if isinstance(data, pl.LazyFrame):
        data = data.collect_batches(chunk_size=65_536, maintain_order=True)
    parts: Iterable[Any] = [data] if is_table(data) or not isinstance(data, Iterable) else data
    first = 0
    for part in parts:
        part, where = part if isinstance(part, tuple) else (part, Where(first_row=first))
        table = frame(part, names, where, times)
        yield table, where
        first += len(table)


def numeric(values: pl.Series, name: str, where: Where) -> tuple[np.ndarray, np.ndarray]:
    """A column as float64 (B,), NaN where missing or no number, and where it is none, bool (B,). True is 1, false 0."""
    values = _plain(values)
    if not (values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean, pl.Null)):
        # Polars would take the ticks of a date, a time or a difference of times for numbers.
        raise TypeError(f"{where.at(0)}, column {name!r}: a dense column holds numbers, not {values.dtype}.")
    if values.dtype == pl.String:
        values = values.set(values == "", None)
        flags = values.str.contains(normal_form.BOOLEAN)
        if flags.any():
            flags = flags.fill_null(False)
            truth = values.filter(flags).str.to_lowercase() == normal_form.TRUE
            values = values.scatter(flags.arg_true(), truth.cast(pl.Int8).cast(pl.String))
    numbers = values.cast(pl.Float64, strict=False)
    lost = numbers.is_null() & values.is_not_null()
    return numbers.fill_null(float("nan")).to_numpy(), lost.to_numpy()


def truncated(
    column: Categorical, flat: pl.Series, rows: np.ndarray, places: np.ndarray, lengths: np.ndarray
) -> tuple[pl.Series, np.ndarray, np.ndarray, Lists]:
    """Truncated lists of `flatten`: the values that are kept, their rows and places, and the lists."""
    missing = flat.is_null() | flat.cast(pl.String).is_in(["", str(PADDING)]).fill_null(True)
    used, there = np.zeros_like(lengths), ~missing.to_numpy()
    np.maximum.at(used, rows[there], places[there] + 1)
    starts = kept(column, used)
    places = places - starts[rows]
    keep = (places >= 0) & (places < column.hotness)
    return flat.filter(pl.Series(keep)), rows[keep], places[keep], Lists(lengths, starts)


def flatten(values: pl.Series, column: Categorical) -> tuple[pl.Series, np.ndarray, np.ndarray, np.ndarray]:
    """A scalar or multi-hot column as flat values, their rows and places, and the lists' lengths, int64 (B,)."""
    values = _plain(values)
    if values.dtype == pl.String and column.multi_hot:
        values = values.set(values == "", None).str.split(SEPARATOR)
    if isinstance(values.dtype, pl.Array):
        values = values.cast(pl.List(values.dtype.inner))
    if not isinstance(values.dtype, pl.List):
        n = len(values)
        return values, np.arange(n), np.zeros(n, np.int64), np.ones(n, np.int64)
    lengths = values.list.len().fill_null(0).to_numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    places = np.arange(len(rows)) - np.repeat(starts, lengths)
    flat = values.filter(pl.Series(lengths > 0)).explode() if len(rows) else values.clear().explode()
    return _plain(flat), rows, places, lengths


def _plain(values: pl.Series) -> pl.Series:
    """Texts that are stored once each, and referred to by number, as texts."""
    return values.cast(pl.String) if values.dtype in (pl.Categorical, pl.Enum) else values


def checked_ids(values: pl.Series, column: Categorical, source: str = "") -> tuple[np.ndarray, np.ndarray, str]:
    """Values of a column that came with its vocabulary size → int64 ids, -1 where missing.

    Unbounded ids of a hashed column are folded to 31 bits. Other values are hashed as texts to such ids, which
    `tf.strings.to_hash_bucket_strong(texts, 2**31, key=string_hash.KEY)` gives inside a graph. Ids of an open vocabulary keep 63
    bits, and texts become numbers below `string_hash.LONGEST`. Also gives a mask of the
    values that cannot be used, bool (n,), whose ids are -1, too, and what is allowed.
    """
    size = int(column.vocabulary_size or 0)
    most = "2^63-1, which is hashed" if column.hashed else size - 1
    reason = f"must be an integer id: 0 … {most}, or {PADDING} (or empty) for padding"
    values = _plain(values)
    where = Where(source).of(column.name)
    exact = values.dtype.is_integer() or values.dtype == pl.Null
    if values.dtype == pl.String or values.dtype.is_decimal() or (column.hashed and not exact):
        values = normal_form.texts(values, where)
        ids = values.str.to_integer(strict=False)
    elif exact:
        ids = values.cast(pl.Int64, strict=False)
    elif values.dtype.is_float():
        values = values.fill_nan(None)
        ids = values.cast(pl.Int64, strict=False)
        ids = ids.set(ids.cast(pl.Float64) != values, None)
    else:
        raise TypeError(f"{where} has dtype {values.dtype}; ids must be integers.")
    lost = ids.is_null() & values.is_not_null()
    if column.hashed and lost.any():
        count = LARGEST + 1 if column.open is None else LONGEST
        ids = ids.scatter(lost.arg_true(), buckets(values.filter(lost).cast(pl.String), count))
        lost = ids.is_null() & values.is_not_null()
    beyond = ids < PADDING if column.hashed else (ids >= size) | (ids < PADDING)
    bad = (lost | beyond.fill_null(False)).to_numpy()
    numbers = ids.fill_null(PADDING).to_numpy()
    if bad.any():
        numbers = np.where(bad, PADDING, numbers)
    return (fold(numbers) if column.hashed and column.open is None else numbers), bad, reason
