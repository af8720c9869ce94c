"""Rows that ids start with: drawn from a seed and the id alone."""

import functools
from collections.abc import Sequence

import numpy as np

from keras_dlrm.data.kernels.compiled import compiled


def rows_of_ids(seed: Sequence[int], ids: np.ndarray, width: int, half_width: float) -> np.ndarray:
    """Rows ~ U(-s, s), each drawn from the seed and its id alone: by splitmix64, of a counter.

    Args:
        seed: Integers.
        ids: int64 (n,).
        width: Numbers of a row.
        half_width: s.

    Returns:
        float32 (n, width).

    Example:

    >>> first = rows_of_ids([3], np.array([7, 8]), 2, 0.5)
    >>> bool((rows_of_ids([3], np.array([8]), 2, 0.5) == first[1:]).all()), bool((np.abs(first) <= 0.5).all())
    (True, True)

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    rows = np.empty((len(ids), width), np.float32)
    _draw(_key(*seed), ids, np.float32(2 * half_width), rows)
    return rows


@functools.lru_cache(1024)
def _key(*seed: int) -> np.uint64:
    return np.random.SeedSequence([len(seed), *seed]).generate_state(1, np.uint64)[0]  # type: ignore[no-any-return]


@compiled
def mixed(x):  # type: ignore[no-untyped-def]
    """A number of 64 bits as splitmix64 makes another one of it."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def _draw(key, ids, span, rows):  # type: ignore[no-untyped-def]
    for i in range(len(ids)):
        of_id = mixed(np.uint64(ids[i]) ^ key)
        for j in range(rows.shape[1]):
            word = mixed(of_id + np.uint64(j + 1) * np.uint64(0x9E3779B97F4A7C15))
            rows[i, j] = (np.float32(word >> np.uint64(40)) * np.float32(2.0**-24) - np.float32(0.5)) * span
