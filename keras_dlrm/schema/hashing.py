"""Hash of unbounded ids to 31 bits on the host (NumPy); `embeddings.table_rows` has its graph version."""

from typing import Any

import numpy as np

#: Multipliers and shifts of a 32-bit mixing function with low bias: x ^= x >> 16; x *= …; x ^= x >> 15; x *= …; …
MIX = ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1))
LARGEST = 2**31 - 1


def fold(ids: Any) -> np.ndarray:
    """Ids of up to 63 bits → ids of 31 bits: those that fit stay what they are, so folding twice changes nothing.

    Args:
        ids: Integer array.

    Returns:
        int64 array; negative ids are unchanged.

    Example:

    >>> fold(np.array([-1, 7, 2**40])).tolist()
    [-1, 7, 1612487936]
    """
    ids = np.asarray(ids, np.int64)
    wide = ids > LARGEST
    if not wide.any():
        return ids
    high = mix(((ids >> 31) & LARGEST).astype(np.uint32))
    return np.where(wide, (ids ^ high.astype(np.int64)) & LARGEST, ids)


def mix(x: np.ndarray) -> np.ndarray:
    """uint32 → uint32, every bit of the result depending on every bit of `x`."""
    for shift, factor in MIX:
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x
