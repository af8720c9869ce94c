"""`Trace`: a stream of ids with a given locality."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_dlrm.data.synthetic.traces.recency import origins, touched
from keras_dlrm.data.synthetic.traces.stack_profile import StackProfile
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

    Returns:
        The positions, and how many ids were met in the end.
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
