"""Values of one named column to checked arrays of a packed batch; truncation of long lists (NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.hashing import LARGEST, fold
from keras_dlrm.support.values import as_list, is_missing, masked_inside, real_array


def column_names(columns: Any) -> list[str]:
    """Names in a mapping or DataFrame of columns."""
    if hasattr(columns, "keys"):
        return list(columns.keys())
    for names in ("column_names", "columns"):  # of an Arrow table, of a frame
        if hasattr(columns, names):
            return list(getattr(columns, names))
    raise TypeError(f"pack: expected a mapping of named columns or a DataFrame, not {type(columns).__name__}.")


def check_names(columns: Any, needed: Sequence[str], allowed: Sequence[str]) -> None:
    """`KeyError` unless all needed columns are there, and no others than those and the allowed ones."""
    present = set(column_names(columns))
    for name in needed:
        if name not in present:
            raise KeyError(f"pack: column {name!r} is missing; the schema needs {sorted(needed)}.")
    unknown = sorted(str(name) for name in present - {*needed, *allowed})
    if unknown:
        raise KeyError(f"pack: unknown column {unknown[0]!r}; the schema has {sorted(needed)}. Drop it or add it to the schema.")


def check_lengths(arrays: Mapping[str, np.ndarray]) -> None:
    """`ValueError` unless all columns have as many rows as the first one."""
    rows = {name: len(array) for name, array in arrays.items()}
    first = next(iter(rows))
    for name in rows:
        if rows[name] != rows[first]:
            raise ValueError(f"pack: column {name!r} has {rows[name]} rows but {first!r} has {rows[first]}; they must agree.")


def dense_values(name: str, values: Any) -> np.ndarray:
    """A dense column (B,) or (B, 1) → float32 (B,), every value finite."""
    array = real_array(f"pack: dense column {name!r}", values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"pack: dense column {name!r} has shape {array.shape}; it must be (B,).")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError(
            f"pack: dense column {name!r}: value nan in row {int(np.argmax(np.isnan(array)))} is missing, as None, NaN and masked "
            "values are; each must be a finite float32. Fill it or drop the row, or have a preprocessor do so."
        )
    return float32(f"dense column {name!r}", array)


def float32(who: str, values: np.ndarray) -> np.ndarray:
    """Values as float32; `ValueError` naming the first one that is not finite then, as it was given, and its row."""
    with np.errstate(over="ignore"):
        array = values.astype(np.float32)
    check_finite(who, array, values)
    return array


def check_finite(who: str, values: np.ndarray, given: np.ndarray | None = None) -> None:
    """`ValueError` naming the first value that is NaN or infinite, as it is in `given`, and its row."""
    finite = np.isfinite(values)
    if not finite.all():
        where = np.argwhere(~finite)[0]
        value = (values if given is None else given)[tuple(where)]
        raise ValueError(f"{who}: value {value} in row {where[0]}; it must be a finite float32. Fill or drop it.")


def id_matrix(column: Categorical, values: Any) -> tuple[np.ndarray, Lists]:
    """A sparse column (B,), (B, k) or B lists → int64 (B, hotness), padded with -1, every id in range.

    Unbounded ids of a hashed column are folded to 31 bits, but not those of an open vocabulary. Also gives the lists that the
    rows came with.
    """
    most = None if column.truncate else column.hotness
    ids, lengths = ragged(column.name, values, most, PADDING, np.int64)
    starts = np.zeros(len(ids), np.int64)
    if column.truncate:
        starts = kept(column, used_lengths(ids == PADDING))
        ids = cut(ids, starts, column.hotness, PADDING)
    check_ids(column, ids)
    return fold(ids) if column.hashed and column.open is None else ids, Lists(lengths, starts)


def weight_rows(column: Categorical, values: Any, ids: np.ndarray, lists: Lists) -> np.ndarray:
    """Weights of the ids of a sparse column, shaped as the ids were given → float32 (B, hotness), 0 behind them.

    `ids` are the packed ones, (B, hotness), and `lists` what they came with.
    """
    who = f"weights of {column.name!r}"
    given, count = ragged(column.name, values, None if column.truncate else column.hotness, 0.0, np.float64)
    if len(given) != len(ids):
        raise ValueError(f"pack: {who} have {len(given)} rows, the batch has {len(ids)}; they must agree.")
    lacking = np.argwhere((lists.starts[:, None] + np.arange(column.hotness) >= count[:, None]) & (ids != PADDING))
    if len(lacking):
        row, place = lacking[0]
        raise ValueError(
            f"pack: {who}: in row {row} id {ids[row, place]} has no weight; give as many weights as ids, or leave the column "
            "out for weights of 1."
        )
    # A weight of 0 beyond the ids is padding, as a matrix of weights has it.
    surplus = np.argwhere((np.arange(given.shape[1]) >= lists.lengths[:, None]) & (given != 0))
    if len(surplus):
        row, place = surplus[0]
        raise ValueError(
            f"pack: {who}: in row {row} weight {given[row, place]:g} has no id; give as many weights as ids."
        )
    return float32(who, cut(given, lists.starts, column.hotness, 0.0))


WEIGHTS = "must be a finite number of at least 0"


def check_ids(column: Categorical, ids: np.ndarray) -> None:
    """`ValueError` naming the first id that is neither padding nor in the vocabulary, its row and the range."""
    size = int(column.vocabulary_size)  # type: ignore[arg-type]
    bad = ids < PADDING if column.hashed else (ids >= size) | (ids < PADDING)
    if bad.any():
        where = np.argwhere(bad)[0]
        unseen = f"padding ({PADDING})" if column.oov is None else f"the OOV row {column.oov}"
        fix = "" if column.hashed else f". Map unseen ids to {unseen}, or give the column a larger vocabulary_size"
        raise ValueError(
            f"column {column.name!r}: id {ids[tuple(where)]} in row {where[0]} is out of range; allowed are 0 … "
            f"{'2^63-1, which are hashed' if column.hashed else size - 1}, and {PADDING} for padding{fix}."
        )


def stored(columns: Sequence[Categorical], ids: np.ndarray) -> np.ndarray:
    """Ids of a packed batch (B, W) as files have them: int32, or int64 where a vocabulary is open; the others are narrowed."""
    if ids_dtype(columns) == np.int32:
        return narrow(columns, ids)
    whole = np.repeat([c.open is not None for c in columns], [c.hotness for c in columns])
    return np.where(whole, signed(ids), narrow(columns, ids))


def signed(ids: np.ndarray) -> np.ndarray:
    """Integers as int64; unsigned ones beyond it as the largest."""
    return np.minimum(ids, np.uint64(np.iinfo(np.int64).max)).astype(np.int64) if ids.dtype == np.uint64 else ids.astype(np.int64)


def ids_dtype(columns: Sequence[Categorical]) -> np.dtype[Any]:
    """int64 where a column has an open vocabulary, whose ids take 63 bits, else int32."""
    return np.dtype(np.int64 if any(c.open is not None for c in columns) else np.int32)


def narrow(columns: Sequence[Categorical], ids: np.ndarray) -> np.ndarray:
    """Ids of a packed batch (B, W) as int32. One that does not fit becomes its fold where hashed, else -2: out of range."""
    if ids.dtype == np.int32:
        return ids
    fits = ids <= LARGEST if ids.dtype.kind == "u" else (ids <= LARGEST) & (ids >= -LARGEST)
    if fits.all():
        return ids.astype(np.int32)
    hashed = np.repeat([c.hashed and c.open is None for c in columns], [c.hotness for c in columns])
    folded = fold(signed(ids))
    return np.where(fits | (hashed & (ids > 0)), folded, PADDING - 1).astype(np.int32)


def ragged(name: str, values: Any, hotness: int | None, fill: float, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Any of (B,), (B, k) or B lists → (B, hotness), filled up on the right, and the rows' lengths (B,).

    Without a hotness it is as wide as the longest row.
    """
    integer = np.issubdtype(dtype, np.integer)
    if integer and hasattr(values, "isna"):  # pandas: NA, NaN and None, which its arrays hold in several ways
        _check_missing(name, np.asarray(values.isna()))
    if np.ma.is_masked(values):
        mask = np.ma.getmaskarray(values)
        if integer:
            _check_missing(name, np.asarray(mask.reshape(len(mask), -1).any(axis=1)))
        values = real_array(f"pack: weights of {name!r}", values)
    if masked_inside(values):
        values = as_list(values)
    if hasattr(values, "to_list"):
        # Polars and pandas list columns; their to_numpy gives arrays of objects.
        array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
        values = values.to_list() if array.dtype == object else array
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array, values = np.empty(0, dtype=object), list(values)
    if array.dtype == object:
        rows = [_as_row(name, i, v, integer) for i, v in enumerate(values)]
        longest = max((len(r) for r in rows), default=0)
        hotness = _checked_hotness(name, longest, hotness)
        out = np.full((len(rows), hotness), fill, dtype=dtype)
        for i, row in enumerate(rows):
            if len(row):
                _check_dtype(name, row, integer)
                out[i, : len(row)] = row
        return out, np.array([len(r) for r in rows], dtype=np.int64)
    if array.ndim == 1:
        # B empty lists come as shape (0,) only where B = 0.
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"pack: column {name!r} has shape {array.shape}; it must be (B,) or (B, ids).")
    if array.size:
        if integer and array.dtype.kind == "f":
            # Integers with missing values become floats: in pandas, and where Polars hands over an array.
            _check_missing(name, np.isnan(array.max(axis=1)))
        _check_dtype(name, array, integer)
    hotness = _checked_hotness(name, array.shape[1], hotness)
    out = np.full((len(array), hotness), fill, dtype=dtype)
    out[:, : array.shape[1]] = array
    return out, np.full(len(array), array.shape[1], dtype=np.int64)


def _check_missing(name: str, missing: np.ndarray) -> None:
    if missing.any():
        raise TypeError(
            f"pack: column {name!r} has a missing value (null, NaN or masked) in row {int(np.argmax(missing))}; use {PADDING} "
            "or an empty list."
        )


def _as_row(name: str, index: int, value: Any, integer: bool) -> np.ndarray:
    row = np.asarray(value)
    absent = row.flat if row.dtype == object or (integer and row.dtype.kind == "f") else ()
    if np.ma.is_masked(value) or any(map(is_missing, absent)):
        raise TypeError(
            f"pack: column {name!r} has a missing value (None, NaN or masked) in row {index}; use {PADDING} or an empty list."
        )
    if row.dtype == object and all(isinstance(v, Decimal) and v == v.to_integral_value() for v in row.flat):
        row = np.array([int(v) for v in row.flat]).reshape(row.shape)
    if row.ndim > 1:
        raise ValueError(f"pack: column {name!r} has a value of shape {row.shape} in row {index}; give a list of ids.")
    return row[None] if row.ndim == 0 else row


def _check_dtype(name: str, array: np.ndarray, integer: bool) -> None:
    # By kind: NumPy takes a difference of times for an integer.
    if integer and array.dtype.kind not in "iu":
        raise TypeError(f"pack: column {name!r} has dtype {array.dtype}; ids must be integers. Encode values first.")
    if not integer and array.dtype.kind not in "iuf":
        raise TypeError(f"pack: weights of {name!r} have dtype {array.dtype}; they must be numeric.")
    if integer and array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"pack: column {name!r}: id {array.max()} does not fit in int64.")


def _checked_hotness(name: str, width: int, hotness: int | None) -> int:
    if hotness is not None and width > hotness:
        raise ValueError(
            f"pack: column {name!r} has an example with {width} ids but hotness={hotness}; raise hotness, shorten the list, or "
            "set truncate='first' or 'last'."
        )
    return width if hotness is None else hotness


def check_batch(
    batch: Mapping[str, Any], keys: Sequence[str], dense_names: Sequence[str], categorical: Sequence[Categorical]
) -> None:
    """Check a packed NumPy batch with these keys; see `Schema.validate`."""
    for key in keys:
        if key not in batch:
            raise KeyError(f"batch: {key!r} is missing; the schema needs {list(keys)}.")
    for key in batch:
        if key not in keys:
            raise KeyError(f"batch: unknown key {key!r}; the schema needs {list(keys)}.")
        if np.ma.is_masked(batch[key]):
            raise ValueError(f"batch[{key!r}] has masked values; fill them, ids with {PADDING}.")
    hotness = [column.hotness for column in categorical]
    widths = {"dense": len(dense_names), "sparse": sum(hotness), "weights": sum(hotness)}
    arrays = {key: np.asarray(batch[key]) for key in keys}
    for key, array in arrays.items():
        if array.ndim != 2 or array.shape[1] != widths[key]:
            raise ValueError(f"batch[{key!r}] has shape {array.shape}; the schema needs (B, {widths[key]}).")
        if array.dtype.kind not in ("iu" if key == "sparse" else "iuf"):
            wanted = "ids must be integers (int32 or int64)" if key == "sparse" else "it must be float32"
            raise TypeError(f"batch[{key!r}] has dtype {array.dtype}; {wanted}.")
    if len({len(array) for array in arrays.values()}) > 1:
        raise ValueError(f"batch: row counts differ: { {k: len(a) for k, a in arrays.items()} }; they must agree.")
    for i, name in enumerate(dense_names):
        check_finite(f"dense column {name!r}", arrays["dense"][:, i])
    for column, end in zip(categorical, np.cumsum(hotness), strict=True):
        check_ids(column, arrays["sparse"][:, end - column.hotness : end])
    if "weights" in arrays:
        check_finite("weights", arrays["weights"])


@dataclasses.dataclass(frozen=True)
class Lists:
    """The lists of B rows as they were given.

    Args:
        lengths: How many values each row has, int64 (B,); padding between and behind them included.
        starts: The first value of each row that is kept, int64 (B,).
    """

    lengths: np.ndarray
    starts: np.ndarray


def kept(column: Categorical, used: np.ndarray) -> np.ndarray:
    """The first value of each list that is kept, int64 (B,), given the lengths without missing values at the end (padding).

    Example:

    >>> kept(Categorical("tags", hotness=2, truncate="last"), np.array([1, 2, 5])).tolist()
    [0, 0, 3]
    """
    return np.maximum(used - column.hotness, 0) if column.truncate == "last" else np.zeros_like(used)


def used_lengths(missing: np.ndarray) -> np.ndarray:
    """Lengths of the rows without what is missing at their ends: bool (B, k) → int64 (B,).

    Example:

    >>> used_lengths(np.array([[False, True, False, True], [True, True, True, True]])).tolist()
    [3, 0]
    """
    ends = np.arange(1, missing.shape[1] + 1, dtype=np.int64)
    return np.where(missing, 0, ends).max(axis=1, initial=0)


def cut(values: np.ndarray, starts: np.ndarray, width: int, fill: Any) -> np.ndarray:
    """Values of the rows from `starts` on: (B, k) → (B, width), filled up on the right."""
    places = starts[:, None] + np.arange(width)
    padded = np.pad(values, ((0, 0), (0, max(width, 1))), constant_values=fill)
    return np.take_along_axis(padded, places, axis=1)


def weight_matrix(schema: Any, weights: Mapping[str, Any], sparse: np.ndarray, lists: Mapping[str, Lists]) -> np.ndarray:
    """Per-id factors as `Schema.pack` lays them out: float32 (B, W), 1 where none is given and 0 on padding.

    Args:
        schema: The `Schema`.
        weights: Factors by sparse column name, shaped like the column's ids.
        sparse: Packed ids (B, W).
        lists: For each sparse column, the lists that its rows were given.
    """
    for name in weights:
        if name not in lists:
            raise KeyError(f"pack: weights for unknown column {name!r}; the schema has {list(lists)}.")
    packed = (sparse != PADDING).astype(np.float32)
    for column, start in zip(schema.categorical, schema.offsets, strict=True):
        if column.name in weights:
            places = slice(start, start + column.hotness)
            packed[:, places] *= weight_rows(column, weights[column.name], sparse[:, places], lists[column.name])
    return packed
