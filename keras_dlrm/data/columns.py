"""Raw columns as Polars hands them over: dense values, and categorical values as flat lists with their places."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dlrm.columns import PADDING, Categorical
from keras_dlrm.data.string_hash import buckets
from keras_dlrm.data.vocabulary import BadValue
from keras_dlrm.hashing import LARGEST, fold

if TYPE_CHECKING:
    import polars as pl

SEPARATOR = "|"
NUMBER = "must be a number, or empty if missing"
FINITE = "must be finite, or empty if missing"


@dataclasses.dataclass(frozen=True)
class Where:
    """Where a frame comes from, for error messages.

    Args:
        source: File name, or empty.
        first_row: Number of the frame's first row in it, counted from 0.
    """

    source: str = ""
    first_row: int = 0

    def at(self, row: int) -> str:
        """`"log.csv, row 12"`, for row `row` of the frame."""
        return f"{self.source + ', ' if self.source else ''}row {self.first_row + row}"


@contextlib.contextmanager
def located(where: Where, name: str, rows: np.ndarray) -> Iterator[None]:
    """Turn a `BadValue` among flat values, whose rows are `rows`, into an error that names file, row and column."""
    try:
        yield
    except BadValue as bad:
        raise ValueError(
            f"{where.at(int(rows[bad.index]))}, column {name!r}: value {bad.value!r} {bad.reason}."
        ) from None


def frame(data: Any, names: Sequence[str], where: Where) -> pl.DataFrame:
    """The named columns of a Polars DataFrame, another DataFrame or a mapping.

    Raises:
        KeyError: a column is missing.
        TypeError: no table.
        ValueError: columns of different lengths.
    """
    import polars as pl

    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    if not isinstance(data, (pl.DataFrame, Mapping)):
        if not hasattr(data, "columns"):
            raise TypeError(f"expected a DataFrame or a mapping of named columns, not {type(data).__name__}.")
        data = {str(name): np.asarray(data[name]) for name in data.columns}
    given = data.columns if isinstance(data, pl.DataFrame) else list(data)
    source = f"{where.source}: " if where.source else ""
    for name in names:
        if name not in given:
            raise KeyError(f"{source}column {name!r} is missing; there are {[str(n) for n in given]}.")
    if isinstance(data, pl.DataFrame):
        return data.select(names)
    series = {name: _series(name, data[name]) for name in names}
    first = next(iter(series))
    for name, values in series.items():
        if len(values) != len(series[first]):
            raise ValueError(
                f"{source}column {name!r} has {len(values)} rows but {first!r} has {len(series[first])}; "
                "they must agree."
            )
    return pl.DataFrame(series)


def _series(name: str, values: Any) -> pl.Series:
    import polars as pl

    if isinstance(values, np.ndarray) and values.dtype == object:
        values = values.tolist()
    if isinstance(values, list):
        values = [_value(v) for v in values]
    try:
        return pl.Series(name, values, strict=False)
    except UnicodeEncodeError as error:
        raise ValueError(f"column {name!r} holds half of a surrogate pair, which is no text ({error}).") from None


def _value(value: Any) -> Any:
    """A Python value; `None` for all that pandas and NumPy have for a missing one, in lists, too."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_value(v) for v in value]
    # Polars would make the text "<NA>" of pandas' missing text.
    missing = value != value if isinstance(value, float) else type(value).__name__ in ("NAType", "NaTType")
    return None if missing else value


def frames(data: Any, names: Sequence[str]) -> Iterator[tuple[pl.DataFrame, Where]]:
    """One or many Polars frames, or pairs `(frame, Where)` → pairs with the named columns; none without names."""
    import polars as pl

    if not names:
        return
    if isinstance(data, pl.LazyFrame):
        data = data.collect_batches(chunk_size=65_536, maintain_order=True)
    parts: Iterable[Any] = [data] if isinstance(data, (pl.DataFrame, Mapping)) else data
    first = 0
    for part in parts:
        part, where = part if isinstance(part, tuple) else (part, Where(first_row=first))
        table = frame(part, names, where)
        yield table, where
        first += len(table)


def dense_values(table: pl.DataFrame, name: str, where: Where) -> np.ndarray:
    """A numeric column as float64 (B,), NaN where missing.

    Raises:
        ValueError: a value is no number, or infinite.
        TypeError: not a column of numbers.
    """
    numbers, lost = numeric(table[name], name, where)
    if lost.any():
        row = int(np.argmax(lost))
        raise ValueError(f"{where.at(row)}, column {name!r}: value {table[name][row]!r} {NUMBER}.")
    infinite = np.isinf(numbers)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise ValueError(f"{where.at(row)}, column {name!r}: value {numbers[row]} {FINITE}.")
    return numbers


def numeric(values: pl.Series, name: str, where: Where) -> tuple[np.ndarray, np.ndarray]:
    """A column as float64 (B,), NaN where missing or no number, and where it is none, bool (B,).

    Raises:
        TypeError: not a column of numbers.
    """
    import polars as pl

    values = _plain(values)
    if not (values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean, pl.Null)):
        # Polars would take the seconds of a date or a time for numbers.
        raise TypeError(f"{where.at(0)}, column {name!r}: a dense column holds numbers, not {values.dtype}.")
    if values.dtype == pl.String:
        values = values.set((values == "").fill_null(False), None)
    numbers = values.cast(pl.Float64, strict=False)
    lost = numbers.is_null() & values.is_not_null()
    return numbers.fill_null(float("nan")).to_numpy(), lost.to_numpy()


def categorical_values(
    table: pl.DataFrame, column: Categorical, where: Where
) -> tuple[pl.Series, np.ndarray, np.ndarray]:
    """A scalar or multi-hot column as flat values.

    Returns:
        `(values, rows, places)`: n values, and int64 (n,) their rows and their positions in the rows' lists.

    Raises:
        ValueError: a list with more values than `hotness`.
    """
    flat, rows, places, lengths = flatten(table[column.name], column)
    if len(lengths) and lengths.max() > column.hotness:
        row = int(np.argmax(lengths > column.hotness))
        raise ValueError(
            f"{where.at(row)}, column {column.name!r}: {lengths[row]} values but hotness={column.hotness}; raise "
            "hotness or shorten the list."
        )
    return flat, rows, places


def flatten(values: pl.Series, column: Categorical) -> tuple[pl.Series, np.ndarray, np.ndarray, np.ndarray]:
    """A scalar or multi-hot column as flat values, their rows and places, and the lists' lengths, int64 (B,)."""
    import polars as pl

    values = _plain(values)
    if values.dtype == pl.String and column.hotness > 1:
        empty = (values == "").fill_null(False)
        values = values.set(empty, None).str.split(SEPARATOR)
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
    import polars as pl

    return values.cast(pl.String) if values.dtype in (pl.Categorical, pl.Enum) else values


def given_ids(values: pl.Series, column: Categorical) -> np.ndarray:
    """Values of a column that came with its vocabulary size → int64 ids; -1 where missing.

    Unbounded ids of a hashed column are folded to 31 bits. Its texts that are no integers are hashed to such ids, which
    `tf.strings.to_hash_bucket_strong(texts, 2**31, key=string_hash.KEY)` gives inside a graph.

    Raises:
        BadValue: no integer, or out of range.
    """
    ids, bad, reason = checked_ids(values, column)
    if bad.any():
        index = int(np.argmax(bad))
        raise BadValue(index, values[index], reason)
    return ids


def checked_ids(values: pl.Series, column: Categorical, source: str = "") -> tuple[np.ndarray, np.ndarray, str]:
    """What `given_ids` gives, -1 where a value cannot be used; where that is, bool (n,); and what is allowed.

    Raises:
        TypeError: not a column of ids; the message names `source`.
    """
    import polars as pl

    size = int(column.vocabulary_size or 0)
    most = "2^63-1, which is hashed" if column.hashed else size - 1
    reason = f"must be an integer id: 0 … {most}, or {PADDING} (or empty) for padding"
    values = _plain(values)
    if values.dtype == pl.String:
        values = values.set((values == "").fill_null(False), None)
        text = values.str.replace(r"^([+-]?\d+)\.0+$", "${1}")
        ids = text.str.to_integer(strict=False)
        lost = ids.is_null() & values.is_not_null()
        if column.hashed and lost.any():
            ids = ids.scatter(lost.arg_true(), buckets(text.filter(lost), LARGEST + 1))
            lost = ids.is_null() & values.is_not_null()
    elif values.dtype.is_float():
        values = values.fill_nan(None)
        ids = values.cast(pl.Int64, strict=False)
        lost = (ids.is_null() & values.is_not_null()) | (ids.cast(pl.Float64) != values).fill_null(False)
    elif values.dtype.is_integer() or values.dtype == pl.Null:
        ids = values.cast(pl.Int64, strict=False)
        lost = ids.is_null() & values.is_not_null()
    else:
        where = f"{source}, " if source else ""
        raise TypeError(f"{where}column {column.name!r} has dtype {values.dtype}; ids must be integers.")
    beyond = ids < PADDING if column.hashed else (ids >= size) | (ids < PADDING)
    bad = (lost | beyond.fill_null(False)).to_numpy()
    found = ids.fill_null(PADDING).to_numpy()
    if bad.any():
        found = np.where(bad, PADDING, found)
    return (fold(found) if column.hashed else found), bad, reason
