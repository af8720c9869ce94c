"""Recency list: takes the k-th most recently used id, many times at once."""

from __future__ import annotations

import numpy as np

# Above every position in a list.
_WIDE = 1 << 40


def origins(positions: np.ndarray) -> np.ndarray:
    """Positions of the ids *before* a sequence of moves to the front.

    Move t takes what is at `positions[t]` in a list, 0 for its front, and puts it there. The order of the list at that
    time depends on all moves before it, so this looks sequential. But what a run of moves does is known from the places
    it touched, and two neighboring runs can be merged: what the second one takes was either put to the front by the
    first one, or lies behind, where the places that the first one left are missing. So runs of 1, 2, 4 … are merged,
    all of one length at once: O(n log² n) in NumPy, with no tree that is updated reference by reference.

    Args:
        positions: (n,), each 0 or more.

    Returns:
        int64 (n,): positions in the list as it was at the beginning.

    Example: take the third of a, b, c, d, then again the third of c, a, b, d.

    >>> origins(np.array([2, 2])).tolist()
    [2, 1]
    """
    n = len(positions)
    width = 1 << max(n - 1, 0).bit_length()
    # Moves of the front fill the last runs up: they touch nothing that counts, for they come last.
    places = np.zeros(width, np.int64)
    places[:n] = positions
    length = 1
    while length < n:
        runs = places.reshape(-1, 2, length)
        runs[:, 1] = _seen_through(runs[:, 0], runs[:, 1])
        length *= 2
    return places[:n]


def _seen_through(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Positions (r, length) after the moves `first` (r, length), as positions before them."""
    count, length = first.shape
    run = np.arange(count)[:, None]
    places, runs_of, moves = touched(first)
    sizes = np.bincount(runs_of, minlength=count)
    starts = np.cumsum(sizes) - sizes
    # What the first moves put to the front, the last one foremost.
    flags = np.zeros(first.size, np.int64)
    flags[moves] = 1
    later = np.cumsum(flags[::-1])[::-1].reshape(count, length)
    rank = (later - later[:, :1] + sizes[:, None]).ravel()[moves] - 1
    front = np.empty(len(places), np.int64)
    front[starts[runs_of] + rank] = places
    # Behind them: the k-th place that was not touched.
    k = second - sizes[:, None]
    gaps = places - (np.arange(len(places)) - starts[runs_of])
    passed = np.searchsorted(runs_of * _WIDE + gaps, (run * _WIDE + np.maximum(k, 0)).ravel(), side="right")
    behind = k + passed.reshape(second.shape) - starts[:, None]
    return np.where(k < 0, front[np.where(k < 0, starts[:, None] + second, 0)], behind)


def touched(first: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different places (r, length) of each run, in order, and the last move that took each.

    Returns:
        `(places, runs, moves)`, each (m,): runs are row numbers, moves are indices into the flattened `first`.
    """
    keys = (np.arange(len(first))[:, None] * _WIDE + first).ravel()
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    return ordered[last] % _WIDE, ordered[last] // _WIDE, order[last]
