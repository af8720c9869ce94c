"""Order of rows in an epoch: a shuffle that is computed, not stored; batches and shards of it."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_dlrm.support.arguments import integer

LASTS = ("keep", "drop", "pad")
# Of the network below. Four suffice in theory, for round functions that are random; ours are only good hashes.
ROUNDS = 8


class ShuffledOrder:
    """The order of a shuffled epoch: a permutation of all rows that depends on `(rows, seed, epoch)` only.

    Any part of it is computed when asked for, in about 65 ns a row (an AMD EPYC core), so it costs no memory and no time
    to begin with, however many rows there are. It is a Feistel network on pairs (row // b, row % b): each round adds a
    hash of one half to the other half, which can be undone, so no two rows meet.

    Args:
        rows: Number of rows N.
        seed: Seed of the shuffle.
        epoch: Number of the epoch.

    Example:

    >>> order = ShuffledOrder(10, seed=0, epoch=7)
    >>> sorted(order[0:10].tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

    Source: Luby and Rackoff 1988, "How to construct pseudorandom permutations from pseudorandom functions"; Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains", for numbers of rows that are not a product of two halves.
    """

    def __init__(self, rows: int, seed: int, epoch: int) -> None:
        self.rows = rows
        # a · b ≥ rows, by less than a.
        self._a = max(1, math.isqrt(max(rows - 1, 0)) + 1)
        self._b = max(1, -(-rows // self._a))
        self._keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint32)

    def __getitem__(self, places: slice) -> np.ndarray:
        """Row numbers, int64, at the places `start … stop - 1` of the order."""
        start, stop, _ = places.indices(self.rows)
        numbers = self._permute(np.arange(start, max(start, stop), dtype=np.int64))
        # The few that land between rows and a · b go through again until they land among the rows.
        outside = np.flatnonzero(numbers >= self.rows)
        while len(outside):
            numbers[outside] = self._permute(numbers[outside])
            outside = outside[numbers[outside] >= self.rows]
        return numbers

    def _permute(self, numbers: np.ndarray) -> np.ndarray:
        quotient = numbers // self._b
        left, right = quotient.astype(np.uint32), (numbers - quotient * self._b).astype(np.uint32)
        for i in range(0, ROUNDS, 2):
            left = _add(left, _hash(right, self._keys[i]), self._a)
            right = _add(right, _hash(left, self._keys[i + 1]), self._b)
        return left.astype(np.int64) * self._b + right


def _hash(values: np.ndarray, key: np.uint32) -> np.ndarray:
    # The finalizer of MurmurHash3 (Appleby, public domain): each bit of the input changes half of the output's.
    h = values ^ key
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    h += key
    return h


def _add(half: np.ndarray, hashed: np.ndarray, size: int) -> np.ndarray:
    """(half + hashed) mod size, for half < size ≤ 2³¹."""
    hashed %= np.uint32(size)
    hashed += half
    # Where the sum is below size, this subtraction wraps around to something larger.
    return np.minimum(hashed, hashed - np.uint32(size))


@dataclasses.dataclass(frozen=True)
class BatchCut:
    """A cut of an order of rows into batches, and of each batch into the parts of several workers.

    All workers together read `batch_size · workers` consecutive places of the order per step, so what a step trains on
    does not depend on how many workers share it. The last step gets what is left: spread over the workers, the first
    ones a row more where it does not divide.

    Args:
        rows: Number of rows N.
        batch_size: Rows of a batch of one worker.
        last: What becomes of a last step with fewer rows: `"keep"`, `"drop"`, or `"pad"`, in which every worker's batch
            is filled up to `batch_size`.
        shard: `(index, count)`: which worker this is, of how many.

    Raises:
        ValueError: an argument out of range, or `last="keep"` with a last step that does not divide by the workers.

    Example:

    >>> cut = BatchCut(rows=11, batch_size=2, last="pad", shard=(1, 2))
    >>> len(cut), [cut.places(i) for i in range(3)]
    (3, [(2, 4), (6, 8), (10, 11)])
    """

    rows: int
    batch_size: int
    last: str = "keep"
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        integer("batches", "batch_size", self.batch_size)
        if self.last not in LASTS:
            raise ValueError(f"last={self.last!r} is unknown; use one of {LASTS}.")
        object.__setattr__(self, "shard", check_shard(self.shard))
        left, workers = self.rows % (self.batch_size * self.shard[1]), self.shard[1]
        if self.last == "keep" and left % workers:
            raise ValueError(
                f"last='keep': the last step has {left} of {self.rows} rows, which {workers} workers cannot share evenly; give "
                "last='pad' (padded rows weigh nothing) or last='drop'."
            )

    def __len__(self) -> int:
        step = self.batch_size * self.shard[1]
        return self.rows // step if self.last == "drop" else -(-self.rows // step)

    def places(self, index: int) -> tuple[int, int]:
        """Begin and end of this worker's rows of step `index` in the order; none where others got the last ones."""
        worker, workers = self.shard
        first = index * self.batch_size * workers
        each, longer = divmod(min(self.batch_size * workers, self.rows - first), workers)
        start = first + worker * each + min(worker, longer)
        return start, start + each + (worker < longer)


def check_shard(shard: Any) -> tuple[int, int]:
    """`shard` as a pair of ints, or `ValueError`."""
    try:
        index, count = shard
    except (TypeError, ValueError):
        index, count = None, None
    if any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) for n in (index, count)):
        raise ValueError(f"shard={shard!r} must be a pair of integers: (index of this worker, number of workers).")
    if count < 1:
        raise ValueError(f"shard={shard!r}: the number of workers must be at least 1.")
    if not 0 <= index < count:
        raise ValueError(f"shard={shard!r}: the index of one of {count} workers must be in [0, {count - 1}].")
    return int(index), int(count)
