"""`Trace`: a stream of ids with a given locality."""

from typing import Any

import numpy as np

from keras_dlrm.data.synthetic.stack_profile import StackProfile
from keras_dlrm.support.arguments import integer

# References that are worked out at once.
CHUNK = 65536


class Trace:
    """An endless stream of ids whose stack distances follow a profile.

    All ids that were met are kept in the order of their last use. A reference at distance d takes the one that d others
    have followed; a new one takes the next of the table's ids, in random order. The order lives on from one `draw` to
    the next, so that locality reaches across batches, and the stream does not depend on how it is cut.

    Where the profile asks for a distance that is not there yet, at most `profile.largest + 1` times, a new id comes
    instead. Once all of the table's ids are in use, the least recently used one comes in place of a new one. In between,
    the measured profile of n references is within `(largest + 1) / n + √(ln(2 / α) / 2n)` of the asked one at every
    distance, with probability 1 - α.

    Args:
        profile: The asked profile.
        vocabulary_size: Ids are `0 … vocabulary_size - 1`.
        seed: An integer, or a sequence of integers.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> from keras_dlrm.data.synthetic import StackProfile
    >>> asked = StackProfile.power(1.0, 200, cold=0.02)
    >>> ids = Trace(asked, 10_000, seed=0).draw(50_000)
    >>> bool(StackProfile.measured(ids).difference(asked) < 0.01)
    True
    """

    def __init__(self, profile: StackProfile, vocabulary_size: int, seed: Any = 0) -> None:
        if not isinstance(profile, StackProfile):
            raise ValueError(f"Trace: profile={profile!r} must be a StackProfile, such as StackProfile.power(…).")
        self.profile = profile
        self.vocabulary_size = integer("Trace", "vocabulary_size", vocabulary_size)
        self._random = np.random.default_rng(seed)
        # The first `_depth` were met, the most recently used one last; those behind come when new ids are asked for.
        self._stack = self._random.permutation(self.vocabulary_size).astype(
            np.int32 if self.vocabulary_size < 2**31 else np.int64
        )
        self._depth = 0
        self._ready = self._stack[:0]

    def draw(self, n: int) -> np.ndarray:
        """The next `n` ids: int32 (n,)."""
        n = integer("Trace.draw", "n", n, 0)
        parts, held = [self._ready], len(self._ready)
        while held < n:
            parts.append(self._chunk())
            held += CHUNK
        ids = np.concatenate(parts)
        self._ready = ids[n:]
        return ids[:n]

    def _chunk(self) -> np.ndarray:
        before = self._depth
        positions, depth = _positions(self.profile.draw(self._random, CHUNK), before, self.vocabulary_size)
        before_moves = origins(positions)
        # Positions count from the most recently used id back, and then through the new ones.
        index = np.where(before_moves < before, before - 1 - before_moves, before_moves)
        ids = self._stack[index]
        places, _, moves = touched(index[None])
        low = int(places[0])
        kept = np.ones(depth - low, bool)
        kept[places - low] = False
        # New ids come in order, so that those in use are always the first ones of the array.
        self._stack[low:depth] = np.concatenate([self._stack[low:depth][kept], ids[np.sort(moves)]])
        self._depth = depth
        return ids


def _positions(distances: np.ndarray, depth: int, size: int) -> tuple[np.ndarray, int]:
    """A position to take at each reference, in a list of `depth` ids that were met, followed by those that were not.

    And how many ids were met in the end.
    """
    distances = np.where(distances < 0, size, distances)
    known = np.where(distances < size, distances, -1).max()
    if known < depth and depth + int((distances == size).sum()) <= size:
        new = distances == size
        depths = depth + np.cumsum(new)
        return np.where(new, depths - 1, distances), int(depths[-1])
    out = []
    for distance in distances.tolist():
        if distance >= depth and depth < size:
            out.append(depth)
            depth += 1
        else:
            out.append(min(distance, depth - 1))
    return np.array(out, np.int64), depth


# Above every position in a list.
_WIDE = 1 << 40


def origins(positions: np.ndarray) -> np.ndarray:
    """Positions of the ids *before* a sequence of moves to the front.

    Move t takes what is at `positions[t]` in a list, 0 for its front, and puts it there. The order of the list at that
    time depends on all moves before it, so this looks sequential. But what a run of moves does is known from the places
    it touched, and two neighboring runs can be merged: what the second one takes was either put to the front by the
    first one, or lies behind, where the places that the first one left are missing. So runs of 1, 2, 4 … are merged,
    all of one length at once: O(n log² n) in NumPy, with no tree that is updated reference by reference.

    `positions` are (n,), each 0 or more; so are those that come back, of the list as it was at the beginning, as int64.
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
    """The different places (r, length) of each run, in order, their runs, and the last move that took each, (m,) each.

    Runs are row numbers, moves are indices into the flattened `first`.
    """
    keys = (np.arange(len(first))[:, None] * _WIDE + first).ravel()
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    return ordered[last] % _WIDE, ordered[last] // _WIDE, order[last]
