"""Random numbers looked up by key: a hash, and permutations made of it."""

import numpy as np

# Weyl step, multipliers and shifts of SplitMix64 (Steele, Lea and Flood, 2014).
_STEP, _FACTORS, _SHIFTS = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB), (30, 27, 31)
_MASK = 2**64 - 1
ROUNDS = 4


def mixed(values: np.ndarray, key: int = 0) -> np.ndarray:
    """A 64-bit hash of uint64 values and any integer: each bit of the outcome depends on each of these.

    Example:

    >>> mixed(np.array([1], np.uint64)).dtype
    dtype('uint64')
    """
    out = np.asarray(values, np.uint64) + np.uint64((key * _STEP + _STEP) & _MASK)
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        out = (out ^ (out >> np.uint64(shift))) * np.uint64(factor)
    return out ^ (out >> np.uint64(_SHIFTS[2]))


def permuted(index: np.ndarray, size: np.ndarray, key: int = 0, tweak: np.ndarray | int = 0) -> np.ndarray:
    """`index` (n,) under a random permutation of `0 … size - 1`, without storing one: int64 (n,).

    A Feistel network over the next power of four, walked until it comes back into the range. Elements of different sizes
    may stand beside each other; the key and the tweak, for each element, choose the permutation.
    """
    out = np.asarray(index, np.uint64).copy()
    size = np.broadcast_to(np.asarray(size, np.uint64), out.shape)
    choice = mixed(np.broadcast_to(np.asarray(tweak, np.uint64), out.shape) * np.uint64(0x2545F4914F6CDD1D) + size, key)
    bits = np.ceil(np.log2(np.maximum(size, np.uint64(2)).astype(np.float64)) / 2.0).astype(np.uint64)
    left = np.arange(out.size)
    while left.size:
        half, mask = bits[left], (np.uint64(1) << bits[left]) - np.uint64(1)
        high, low = out[left] >> half, out[left] & mask
        for number in range(ROUNDS):
            high, low = low, high ^ (mixed(low + choice[left], number) & mask)
        out[left] = (high << half) | low
        left = left[out[left] >= size[left]]
    return out.astype(np.int64)
