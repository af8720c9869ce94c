"""Table rows for the ids of a batch; those of hashed columns by a hash that is the same on every backend."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.hashing import LARGEST, MIX
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.stacking import Stack


def mix(x: Any) -> Any:
    """int32 → int32, every bit of the result depending on every bit of `x`. Products wrap around, on every backend."""
    for shift, factor in MIX:
        # Keras shifts by the sign; the mask makes it the shift of an unsigned number.
        high = ops.bitwise_and(ops.right_shift(x, shift), (1 << (32 - shift)) - 1)
        x = ops.bitwise_xor(x, high)
        if factor != 1:
            x = x * int(np.uint32(factor).astype(np.int32))
    return x


def fold(ids: Any) -> Any:
    """Ids >= 0 → int32 ids >= 0: as `keras_dlrm.schema.hashing.fold`."""
    if keras.backend.standardize_dtype(ids.dtype) != "int64":
        return ops.cast(ids, "int32")
    low, high = (ops.cast(ops.bitwise_and(half, LARGEST), "int32") for half in (ids, ops.right_shift(ids, 31)))
    mixed = ops.bitwise_and(ops.bitwise_xor(low, mix(high)), LARGEST)
    return ops.where(ids > LARGEST, mixed, low)


def bucket(ids: Any, size: Any) -> Any:
    """Ids >= 0 → rows in [0, size), of as many rows as each id's table has."""
    return ops.mod(ops.bitwise_and(mix(fold(ids)), LARGEST), size)


def cross(column: Categorical, parents: Sequence[tuple[Categorical, Any]]) -> Any:
    """Ids int64 (B,) of the columns that a crossed one is made of → its ids, int32 (B,): as `keras_dlrm.schema.crosses.fill`."""
    mixed, there = 0, ops.ones_like(parents[0][1], dtype="bool")
    for parent, ids in parents:
        known = ids >= 0 if parent.hashed else ops.logical_and(ids >= 0, ids < int(parent.vocabulary_size or 0))
        unknown = ops.where(ops.equal(ids, PADDING), PADDING, PADDING if parent.oov is None else parent.oov)
        local = ops.where(known, fold(ops.where(known, ids, ops.zeros_like(ids))), unknown)
        mixed, there = mix(mixed + local), ops.logical_and(there, local >= 0)
    return ops.where(there, ops.mod(ops.bitwise_and(mixed, LARGEST), int(column.vocabulary_size or 1)), PADDING)


def table_rows(stack: Stack, ids: Any) -> Any:
    """int32 rows of the tables; -1 where an id contributes nothing."""
    local = _local_ids(stack.per_position, ids)
    if all(block.second is None for block in stack.blocks):
        return local
    divisor, modulus = (ops.convert_to_tensor(stack.per_position[name], "int32") for name in ("divisor", "modulus"))
    return ops.where(local >= 0, ops.mod(ops.floor_divide(local, divisor), modulus), PADDING)


def column_rows(column: Categorical, ids: Any) -> Any:
    """Ids of one column → int32 rows of its logical table; -1 where an id contributes nothing."""
    oov = PADDING if column.oov is None else column.oov
    if column.open is not None:  # in a step, the codes of its rows
        return ops.where(ids < -2, ops.cast(-3 - ids, "int32"), ops.where(ops.equal(ids, PADDING), PADDING, oov))
    per_position = {"size": np.array(column.vocabulary_size), "oov": np.array(oov), "hashed": np.array(column.hashed)}
    return _local_ids(per_position, ids)


def _local_ids(per_position: Mapping[str, np.ndarray], ids: Any) -> Any:
    """int32 ids inside each column's vocabulary; -1 where an id contributes nothing."""
    size, oov = (ops.convert_to_tensor(per_position[name], "int32") for name in ("size", "oov"))
    known = ops.logical_and(ids >= 0, ids < ops.cast(size, ids.dtype))
    hashed = per_position["hashed"].any()
    if hashed:
        unbounded = ops.convert_to_tensor(per_position["hashed"])
        known = ops.logical_or(known, ops.logical_and(ids >= 0, unbounded))
    # Out-of-range ids are replaced before the cast, so that none is truncated into range.
    inside = ops.where(known, ids, ops.zeros_like(ids))
    local = ops.cast(inside, "int32")
    if hashed:
        local = ops.where(unbounded, bucket(inside, size), local)
    return ops.where(known, local, ops.where(ops.equal(ids, PADDING), PADDING, oov))


def count_out_of_range(ids: Any, schema: Schema) -> Any:
    """Count of the ids (B, W) that are neither padding nor inside their column's vocabulary: int32 scalar."""
    wide = np.iinfo(keras.backend.standardize_dtype(ids.dtype)).max
    last = [wide if c.hashed else int(c.vocabulary_size or 0) - 1 for c in schema.categorical]
    hotness = [c.hotness for c in schema.categorical]
    most = np.repeat(last, hotness)
    opened = ops.convert_to_tensor(np.repeat([c.open is not None for c in schema.categorical], hotness))
    # Less than -2 are rows of open vocabularies.
    low = ops.logical_and(ids < PADDING, ops.logical_or(ops.logical_not(opened), ids == PADDING - 1))
    wrong = ops.logical_or(low, ids > ops.convert_to_tensor(most, ids.dtype))
    return ops.sum(ops.cast(wrong, "int32"))
