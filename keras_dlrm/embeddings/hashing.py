"""Hash of unbounded ids to rows, inside the graph, the same on every backend."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.schema.hashing import LARGEST, MIX


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
    """Ids >= 0 → rows in [0, size).

    Args:
        ids: Integer tensor.
        size: int32 tensor of as many rows as each id's table has; broadcast.
    """
    return ops.mod(ops.bitwise_and(mix(fold(ids)), LARGEST), size)
