"""Stack distances: the number of other ids since an id was last met, the measure of locality."""

from __future__ import annotations

from typing import Any

import numpy as np

COLD = -1


def stack_distances(ids: Any) -> np.ndarray:
    """Stack distances of a sequence of references.

    The distance of a reference is the number of *different* other ids since the last reference to the same id: 0 where
    it comes twice in a row. A cache of c rows that drops the least recently used one hits exactly those below c.

    Takes O(n log n) time and O(n) memory, all in NumPy: 1,000,000 references take about a second.

    Args:
        ids: Integers, (n,).

    Returns:
        int64 (n,); -1 for the first reference to an id.

    Raises:
        ValueError: `ids` has more than one dimension, or holds no integers.

    Example:

    >>> stack_distances([5, 7, 5, 5, 9, 7]).tolist()
    [-1, -1, 1, 0, -1, 2]
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"stack_distances: ids has shape {ids.shape} and dtype {ids.dtype}; give (n,) integers.")
    n = len(ids)
    out = np.full(n, COLD, np.int64)
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order[1:]] == ids[order[:-1]]) if n else np.empty(0, np.int64)
    last = np.full(n, -1, np.int64)
    last[order[same + 1]] = order[same]
    again = np.flatnonzero(last >= 0)
    if not len(again):
        return out
    # An id in between is counted at its first reference after the last one to ours: one whose own last reference came
    # before that. So the distance is the number of references so far whose last one came before ours, less those up
    # to ours, all of which are among them.
    before = last[again]
    marks = np.zeros(n, np.int32)
    marks[before] = 1
    ranks = (np.cumsum(marks, dtype=np.int64) - 1)[before]
    new = np.cumsum(last < 0)
    out[again] = new[again] + earlier_and_smaller(ranks) - (before + 1)
    return out


def earlier_and_smaller(ranks: np.ndarray) -> np.ndarray:
    """For each element of a permutation of 0 … n - 1, how many before it are smaller: int64 (n,).

    The elements are sorted bit by bit from the highest, as in a wavelet tree: at each bit, those with a 1 have passed
    the zeros of their group that came before them.

    Example:

    >>> earlier_and_smaller(np.array([2, 0, 3, 1])).tolist()
    [0, 0, 2, 1]
    """
    n = len(ranks)
    small: Any = np.int32 if n < 2**31 else np.int64
    values: Any = ranks.astype(small)
    counts: Any = np.zeros(n, small)
    places: Any = np.arange(n, dtype=small)
    for bit in reversed(range(max(n - 1, 0).bit_length())):
        half = small(1 << bit)
        high = (values & half) != 0
        # A group is 2^(bit+1) places wide and begins with as many zeros as half of that: ranks are a permutation.
        group = places & ~small(2 * half - 1)
        zeros = np.cumsum(~high, dtype=small) - (group >> 1)
        counts += np.where(high, zeros, small(0))
        target = np.where(high, group + half + (places - group - zeros), group + zeros - 1)
        values, counts = _moved(values, target), _moved(counts, target)
    out = np.empty(n, np.int64)
    out[values] = counts
    return out[ranks]


def _moved(array: np.ndarray, target: np.ndarray) -> np.ndarray:
    out = np.empty_like(array)
    out[target] = array
    return out
