"""Stack distances, the measure of locality, and `StackProfile`, their distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dlrm.support.arguments import integer, number


class StackProfile:
    """Frequencies of references by stack distance (see `stack_distances`), and of references to a new id.

    Distances are given in buckets: bucket i holds `edges[i] … edges[i + 1] - 1`, evenly.

    Args:
        edges: Increasing integers from 0 on, (k + 1,).
        weights: (k,), how often each bucket comes, in any unit.
        cold: Share of references to an id that was not met before.

    Raises:
        ValueError: edges do not increase, a weight is negative, or sizes do not fit.

    Example:

    >>> profile = StackProfile([0, 1, 10], [2, 1], cold=0.25)
    >>> profile.cdf(np.array([0, 9, 1000])).tolist()
    [0.5, 0.75, 0.75]
    """

    def __init__(self, edges: Any, weights: Any, cold: float) -> None:
        self.edges = np.asarray(edges, np.int64).ravel()
        weights = np.asarray(weights, np.float64).ravel()
        self.cold = number("StackProfile", "cold", cold)
        if self.cold > 1.0:
            raise ValueError(f"StackProfile: cold={cold!r} must be at most 1.")
        if len(self.edges) != len(weights) + 1 or (np.diff(self.edges) <= 0).any() or self.edges[0] < 0:
            raise ValueError(
                f"StackProfile: {len(self.edges)} edges for {len(weights)} weights; edges must be one more than weights, "
                "and increase from 0 or more."
            )
        if not np.isfinite(weights).all() or (weights < 0).any() or (self.cold < 1.0 and weights.sum() <= 0.0):
            raise ValueError("StackProfile: weights must be finite, not negative, and not all 0 where cold is below 1.")
        total = weights.sum()
        self.weights = weights * ((1.0 - self.cold) / total) if total > 0.0 else weights

    @classmethod
    def power(cls, exponent: float, largest: int, cold: float) -> StackProfile:
        """Distances 0 … `largest`, each in proportion to `(distance + 1) ** -exponent`.

        Args:
            exponent: 0 is no locality, 1 and more is strong.
            largest: Largest distance.
            cold: Share of new ids.

        Example:

        >>> StackProfile.power(1.0, 1, cold=0.1).weights
        array([0.6, 0.3])
        """
        exponent = number("StackProfile.power", "exponent", exponent)
        edges = _log_edges(integer("StackProfile.power", "largest", largest, 0))
        inner = np.concatenate([[0.0], np.cumsum(np.arange(1, edges[-1] + 1, dtype=np.float64) ** -exponent)])
        return cls(edges, np.diff(inner[edges]), cold)

    @classmethod
    def measured(cls, ids: Any, exact: bool = False) -> StackProfile:
        """The profile of a stream of ids.

        Args:
            ids: Integers, (n,), at least one.
            exact: Whether every distance is kept as it is; otherwise those above 15 share buckets, each 9% wide.

        Example:

        >>> StackProfile.measured([1, 2, 1, 1]).cold
        0.5
        """
        distances = stack_distances(ids)
        if not len(distances):
            raise ValueError("StackProfile.measured: ids is empty; give at least one reference.")
        return cls.of_distances(distances, exact)

    @classmethod
    def of_distances(cls, distances: np.ndarray, exact: bool = False) -> StackProfile:
        """The profile of a stream, from its stack distances."""
        again = distances[distances >= 0]
        cold = 1.0 - len(again) / len(distances)
        if not len(again):
            return cls([0, 1], [0.0], 1.0)
        if exact:
            values, counts = np.unique(again, return_counts=True)
            edges = np.unique(np.concatenate([values, values + 1]))
            weights = np.zeros(len(edges) - 1)
            weights[np.searchsorted(edges, values)] = counts
            return cls(edges, weights, cold)
        edges = _log_edges(int(again.max()))
        return cls(edges, np.bincount(np.searchsorted(edges, again, "right") - 1, minlength=len(edges) - 1), cold)

    @property
    def largest(self) -> int:
        """Largest distance with any weight, -1 where there is none."""
        used = np.flatnonzero(self.weights)
        return int(self.edges[used[-1] + 1] - 1) if len(used) else -1

    def cdf(self, distances: Any) -> np.ndarray:
        """Share of references at most so far: what a least-recently-used cache of `distance + 1` rows hits."""
        below = np.concatenate([[0.0], np.cumsum(self.weights)])
        return np.interp(np.asarray(distances, np.float64) + 1.0, self.edges, below)

    def difference(self, other: StackProfile) -> float:
        """Largest difference of the two `cdf`, over all distances: between 0 and 1.

        Example:

        >>> StackProfile([0, 1], [1], 0.5).difference(StackProfile([1, 2], [1], 0.5))
        0.5
        """
        # Both are straight between their edges.
        at = np.concatenate([self.edges, other.edges]) - 1
        return float(np.abs(self.cdf(at) - other.cdf(at)).max())

    def draw(self, random: np.random.Generator, n: int) -> np.ndarray:
        """`n` distances, -1 for a new id: int64."""
        steps = np.concatenate([np.cumsum(self.weights), [1.0]])
        bucket = np.searchsorted(steps, random.random(n), side="right")
        within = random.random(n)
        cold = bucket >= len(self.weights)
        bucket = np.where(cold, 0, bucket)
        low, width = self.edges[bucket], np.diff(self.edges)[bucket]
        return np.where(cold, -1, low + np.minimum((within * width).astype(np.int64), width - 1))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"edges": self.edges.tolist(), "weights": self.weights.tolist(), "cold": self.cold}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StackProfile:
        """Inverse of `to_dict`."""
        return cls(data["edges"], data["weights"], data["cold"])


def _log_edges(largest: int) -> np.ndarray:
    """0, 1, … 16, then eight edges for each doubling, up to one past `largest`."""
    steps = np.unique((16 * 2 ** (np.arange(8 * 36) / 8)).astype(np.int64))
    edges = np.concatenate([np.arange(16), steps])
    return np.concatenate([edges[edges <= largest], [largest + 1]])


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
    out = np.full(n, -1, np.int64)
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
