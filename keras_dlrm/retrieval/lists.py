"""Lists of an index: items in groups of near ones, by balanced k-means, so that a query looks at a few groups alone (NumPy)."""

import dataclasses
from collections.abc import Callable

import numpy as np

_SAMPLE, _ROUNDS = 64, 10  # items by list, and rounds, that the centers are made of
_SLACK = 1.3  # by how much a list may be longer than the mean
_NEAR = 8  # lists that an item may go to before it goes where there is room
_BLOCK = 2**16
Vectors = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Lists:
    """Items in groups.

    Args:
        centers: Means of the groups, float32 (L, D).
        members: Rows of each group, in order, int32 (L, m), -1 behind short ones.
    """

    centers: np.ndarray
    members: np.ndarray


def make_lists(vectors: Vectors, rows: int, count: int, seed: int = 0) -> Lists:
    """Groups of about equal size.

    Centers come from a sample of the items; then each item goes to the nearest one that has room, those that are nearest first. No
    list is longer than 1.3 times the mean, so that a query's work has a bound.

    Args:
        vectors: Gives the vectors of some rows, int (n,) → float32 (n, D).
        rows: Number of items.
        count: Number of groups L, at most `rows`.
        seed: Seed of the sample and of the first centers.

    Source: Sivic and Zisserman 2003, "Video Google" (inverted files); Lloyd 1982, "Least squares quantization in PCM".

    Example:

    >>> points = np.array([[0.0, 0.0], [9.0, 9.0], [0.1, 0.0], [9.0, 9.1]], np.float32)
    >>> lists = make_lists(lambda rows: points[rows], 4, 2)
    >>> sorted(lists.members[:, :2].tolist())
    [[0, 2], [1, 3]]
    """
    draw = np.random.default_rng(seed)
    sample = vectors(np.sort(draw.choice(rows, min(rows, _SAMPLE * count), replace=False)))
    centers = sample[np.sort(draw.choice(len(sample), count, replace=False))].copy()
    for _ in range(_ROUNDS):
        nearest = np.argmax(_closeness(sample, centers), axis=1)
        sizes = np.bincount(nearest, minlength=count)
        sums = np.zeros_like(centers)
        np.add.at(sums, nearest, sample)
        means = sums / np.maximum(sizes, 1)[:, None].astype(np.float32)
        centers = np.where(sizes[:, None] > 0, means, centers)
        # An empty group takes an item of the largest one.
        for empty in np.flatnonzero(sizes == 0):
            centers[empty] = sample[draw.choice(np.flatnonzero(nearest == np.argmax(sizes)))]
    return Lists(centers, _members(vectors, rows, centers))


def _closeness(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The nearer, the larger: (n, L)."""
    return points @ centers.T - 0.5 * np.square(centers).sum(axis=1)


def _members(vectors: Vectors, rows: int, centers: np.ndarray) -> np.ndarray:
    count = len(centers)
    near = min(_NEAR, count)
    choices, closeness = np.empty((rows, near), np.int32), np.empty((rows, near), np.float32)
    for start in range(0, rows, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, rows))
        values = _closeness(vectors(block), centers)
        best = np.argpartition(-values, near - 1, axis=1)[:, :near]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(values, best, 1), axis=1, kind="stable"), 1)
        choices[block], closeness[block] = best, np.take_along_axis(values, best, 1)
    room = np.full(count, max(1, -(-int(_SLACK * rows) // count)), np.int64)
    list_of = np.full(rows, -1, np.int32)
    for choice in range(near):
        waiting = np.flatnonzero(list_of < 0)
        # Those of one list together, the nearest first.
        order = waiting[np.lexsort((-closeness[waiting, choice], choices[waiting, choice]))]
        wanted = choices[order, choice]
        place = np.arange(len(order)) - np.searchsorted(wanted, wanted)
        taken = place < room[wanted]
        list_of[order[taken]] = wanted[taken]
        room -= np.bincount(wanted[taken], minlength=count)
    waiting = np.flatnonzero(list_of < 0)
    list_of[waiting] = np.repeat(np.arange(count), room)[: len(waiting)]
    sizes = np.bincount(list_of, minlength=count)
    order = np.argsort(list_of, kind="stable")
    members = np.full((count, int(sizes.max())), -1, np.int32)
    members[list_of[order], np.arange(rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = order
    return members
