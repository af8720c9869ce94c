"""Ids by first appearance, over a stream."""

from __future__ import annotations

import numpy as np

from keras_dlrm.data.kernels.compiled import compiled

MOST = 2**31 - 2
_LOW = np.uint64(2**32 - 1)
_HALF = np.uint64(32)
# 2^64 / golden ratio: spreads neighboring keys over the table (Knuth, The Art of Computer Programming 3, 6.4).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class FirstAppearance:
    """Numbers the distinct values of a stream 0, 1, 2, … in the order in which they turn up.

    A hash table with open addressing: 19 to 31 bytes for each distinct value. Calls for different tables may run in
    different threads.

    Args:
        values: uint64 (n,), distinct values that have the ids 0 … n - 1 already.

    Example:

    >>> ids = FirstAppearance()
    >>> ids.encode(np.array([70, 50, 70], np.uint64)).tolist()
    [0, 1, 0]
    >>> ids.encode(np.array([9, 50], np.uint64)).tolist()
    [2, 1]
    >>> ids.values.tolist()
    [70, 50, 9]
    """

    def __init__(self, values: np.ndarray | None = None) -> None:
        self._values = np.empty(64, np.uint64)
        # A slot holds the low half of a value, and its id + 1; 0 is an empty one.
        self._slots = np.zeros(128, np.uint64)
        self._count = 0
        self._wide = False
        if values is not None and len(values):
            found = self.encode(np.ascontiguousarray(values, np.uint64))
            if found[-1] != len(values) - 1:
                raise ValueError("FirstAppearance: values must be distinct.")

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> np.ndarray:
        """The distinct values, uint64 (n,); their positions are their ids."""
        return self._values[: self._count]

    def encode(self, values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Values, uint64 (n,) → ids, int32 (n,), written to `out`; values that are new get the next ids."""
        out = np.empty(len(values), np.int32) if out is None else out
        if not self._wide and len(values) and values.max() > _LOW:
            self._wide = True
        done = 0
        while True:
            done, self._count = _encode(values, done, self._slots, self._values, self._count, self._wide, out)
            if done == len(values):
                return out
            self._grow()

    def _grow(self) -> None:
        if self._count >= MOST:
            raise ValueError(f"more than {MOST:,} distinct values in one column.")
        if self._count == len(self._values):
            grown = np.empty(len(self._values) * 3 // 2, np.uint64)
            grown[: self._count] = self._values
            self._values = grown
        if _full(self._count, len(self._slots)):
            # Freed before the larger one is made: all that it held is in the values.
            size = 2 * len(self._slots)
            del self._slots
            self._slots = np.zeros(size, np.uint64)
            _fill(self._slots, self._values, self._count)


@compiled
def _full(count, size):  # type: ignore[no-untyped-def]
    return 10 * count >= 7 * size


@compiled
def _place(key, size):  # type: ignore[no-untyped-def]
    mixed = (key ^ (key >> _HALF)) * _MULTIPLIER
    return (mixed >> _HALF ^ mixed << np.uint64(7)) & np.uint64(size - 1)


@compiled
def _encode(values, start, slots, known, count, wide, out):  # type: ignore[no-untyped-def]
    """Encodes from `start` on; stops where a new value finds no room. Returns where it stopped, and the new count."""
    mask = np.uint64(len(slots) - 1)
    for i in range(start, len(values)):
        key = values[i]
        low = key & _LOW
        at = _place(key, len(slots))
        while True:
            slot = slots[at]
            if slot == np.uint64(0):
                if count == len(known) or _full(count, len(slots)) or count >= MOST:
                    return i, count
                known[count] = key
                count += 1
                slots[at] = low << _HALF | np.uint64(count)
                out[i] = count - 1
                break
            if slot >> _HALF == low:
                row = np.int64(slot & _LOW) - 1
                # The high half of a value is not in its slot.
                if not wide or known[row] == key:
                    out[i] = row
                    break
            at = (at + np.uint64(1)) & mask
    return len(values), count


@compiled
def _fill(slots, known, count):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(slots) - 1)
    for row in range(count):
        key = known[row]
        at = _place(key, len(slots))
        while slots[at] != np.uint64(0):
            at = (at + np.uint64(1)) & mask
        slots[at] = (key & _LOW) << _HALF | np.uint64(row + 1)
