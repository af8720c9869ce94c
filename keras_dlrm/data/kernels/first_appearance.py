"""Ids by first appearance, over a stream: of numbers and of texts."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from keras_dlrm.data.kernels.compiled import compiled

MOST = 2**31 - 2
_LOW = np.uint64(2**32 - 1)
_HALF = np.uint64(32)
# 2^64 / golden ratio: spreads neighboring keys over the table (Knuth, The Art of Computer Programming 3, 6.4).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# Of the hash FNV-1a.
_FIRST, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


class FirstAppearance:
    """Numbers the distinct values of a stream 0, 1, 2, … in the order in which they turn up.

    A hash table with open addressing: 19 to 31 bytes for each distinct value. Threads may work on different tables.

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
            if self.encode(np.ascontiguousarray(values, np.uint64))[-1] != len(values) - 1:
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
            self._values = _longer(self._values, self._count, len(self._values) * 3 // 2)
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


@dataclasses.dataclass(frozen=True)
class Texts:
    """n texts that are in one array of bytes.

    Args:
        data: uint8, the bytes.
        starts: int64 (n,), where each text begins.
        ends: int64 (n,), where it ends.
    """

    data: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, values: pl.Series) -> Texts:
        """The texts of a String series; a null is an empty text."""
        filled = values.fill_null("") if values.null_count() else values
        joined = filled.str.join("") if len(filled) else None
        data = np.frombuffer((joined.item() if joined is not None else "").encode(), np.uint8)
        ends = np.cumsum(filled.str.len_bytes().to_numpy().astype(np.int64))
        return cls(data, np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1]]), ends)

    def series(self) -> pl.Series:
        """The texts as a String series.

        Raises:
            ValueError: they are no UTF-8.
        """
        if not len(self):
            return pl.Series("text", [], dtype=pl.String)
        places = pl.DataFrame({"start": self.starts, "size": self.ends - self.starts})
        cut = pl.lit(self.data.tobytes()).bin.slice(pl.col("start"), pl.col("size"))
        try:
            return places.select(cut.cast(pl.String).alias("text"))["text"]
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"not UTF-8: {error}") from error

    def take(self, rows: np.ndarray) -> Texts:
        """Some of them, in the same bytes."""
        return Texts(self.data, self.starts[rows], self.ends[rows])

    def text(self, row: int) -> str:
        """One of them."""
        return self.data[self.starts[row] : self.ends[row]].tobytes().decode("utf-8", "replace")


class TextIds:
    """Numbers the distinct texts of a stream 0, 1, 2, … in the order in which they turn up.

    A hash table with open addressing that compares whole texts: each distinct one takes its bytes and 20 to 44 more.
    Calls for different tables may run in different threads.

    Example:

    >>> import polars as pl
    >>> ids = TextIds()
    >>> ids.encode(Texts.of(pl.Series(["b", "a", "b"]))).tolist()
    [0, 1, 0]
    >>> ids.find(Texts.of(pl.Series(["a", "c"]))).tolist()
    [1, -1]
    >>> ids.since(0).series().to_list()
    ['b', 'a']
    """

    def __init__(self) -> None:
        # A slot holds the high half of a text's hash, and its id + 1; 0 is an empty one.
        self._slots = np.zeros(64, np.uint64)
        self._ends = np.zeros(33, np.int64)  # Text i is bytes ends[i] … ends[i + 1].
        self._bytes = np.empty(512, np.uint8)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def since(self, first: int) -> Texts:
        """The distinct texts from number `first` on."""
        ends = self._ends[first : self._count + 1]
        start = ends[0]
        return Texts(self._bytes[start : ends[-1]], ends[:-1] - start, ends[1:] - start)

    def encode(self, texts: Texts) -> np.ndarray:
        """Texts → int32 numbers; texts that are new get the next ones."""
        out = np.empty(len(texts), np.int32)
        done = 0
        while True:
            done, self._count = _encode_texts(
                texts.data, texts.starts, texts.ends, done, self._slots, self._ends, self._bytes, self._count, out, True
            )
            if done == len(texts):
                return out
            self._grow(int(texts.ends[done] - texts.starts[done]))

    def find(self, texts: Texts) -> np.ndarray:
        """Texts → int32 numbers, -1 where unknown."""
        out = np.empty(len(texts), np.int32)
        _encode_texts(
            texts.data, texts.starts, texts.ends, 0, self._slots, self._ends, self._bytes, self._count, out, False
        )
        return out

    def _grow(self, size: int) -> None:
        """Room for one more text of `size` bytes."""
        count = self._count
        if count >= MOST:
            raise ValueError(f"more than {MOST:,} distinct values in one column.")
        if count + 1 == len(self._ends):
            self._ends = _longer(self._ends, count + 1, len(self._ends) * 3 // 2)
        used = int(self._ends[count])
        if used + size > len(self._bytes):
            self._bytes = _longer(self._bytes, used, max(len(self._bytes) * 3 // 2, used + size))
        if _full(count, len(self._slots)):
            # Freed before the larger one is made: all that it held can be found again.
            new = 2 * len(self._slots)
            del self._slots
            self._slots = np.zeros(new, np.uint64)
            _fill_texts(self._slots, self._ends, self._bytes, count)


def _longer(array: np.ndarray, used: int, size: int) -> np.ndarray:
    grown = np.empty(size, array.dtype)
    grown[:used] = array[:used]
    return grown


@compiled
def _hash(data, start, end):  # type: ignore[no-untyped-def]
    """FNV-1a, mixed once more: its low bits alone are weak."""
    mixed = _FIRST
    for i in range(start, end):
        mixed = (mixed ^ np.uint64(data[i])) * _PRIME
    mixed = (mixed ^ (mixed >> _HALF)) * _MULTIPLIER
    return mixed ^ (mixed >> _HALF)


@compiled
def _same(data, start, end, ends, known, row):  # type: ignore[no-untyped-def]
    first = ends[row]
    if end - start != ends[row + 1] - first:
        return False
    for i in range(end - start):
        if data[start + i] != known[first + i]:
            return False
    return True


@compiled
def _encode_texts(data, starts, stops, done, slots, ends, known, count, out, add):  # type: ignore[no-untyped-def]
    """Encodes from `done` on; stops where a new text finds no room. Returns where it stopped, and the new count.

    Unless they are to `add`, new texts are -1.
    """
    mask = np.uint64(len(slots) - 1)
    for i in range(done, len(starts)):
        start, end = starts[i], stops[i]
        mixed = _hash(data, start, end)
        at = mixed & mask
        while True:
            slot = slots[at]
            if slot == np.uint64(0):
                if not add:
                    out[i] = -1
                    break
                used = ends[count]
                lacking = count + 1 == len(ends) or used + end - start > len(known)
                if lacking or _full(count, len(slots)) or count >= MOST:
                    return i, count
                known[used : used + end - start] = data[start:end]
                count += 1
                ends[count] = used + end - start
                slots[at] = (mixed >> _HALF) << _HALF | np.uint64(count)
                out[i] = count - 1
                break
            if slot >> _HALF == mixed >> _HALF:
                row = np.int64(slot & _LOW) - 1
                if _same(data, start, end, ends, known, row):
                    out[i] = row
                    break
            at = (at + np.uint64(1)) & mask
    return len(starts), count


@compiled
def _fill_texts(slots, ends, known, count):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(slots) - 1)
    for row in range(count):
        mixed = _hash(known, ends[row], ends[row + 1])
        at = mixed & mask
        while slots[at] != np.uint64(0):
            at = (at + np.uint64(1)) & mask
        slots[at] = (mixed >> _HALF) << _HALF | np.uint64(row + 1)
