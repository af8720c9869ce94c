"""`SlotMap`: rows of a table of fixed size for ever new ids."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dlrm.data.kernels import slot_search
from keras_dlrm.schema.open_vocabulary import EVICT
from keras_dlrm.support.arguments import choice, integer

_LINES = 128  # bytes of two lines of the processor's cache, which reads them in pairs
_NEVER = np.iinfo(np.int64).min
_AGE = 10  # counts are halved after as many uses for each slot


@dataclasses.dataclass(frozen=True)
class Replaced:
    """Slots that a batch's new ids have got, in order of appearance.

    Args:
        slots: int32 (n,), different ones, from 1 on.
        before: int64 (n,): the ids that they had, -1 where they were empty.
        after: int64 (n,): the ids that they have.
    """

    slots: np.ndarray
    before: np.ndarray
    after: np.ndarray


class SlotMap:
    """A set-associative map of ids of 63 bits to the rows of a table of fixed size.

    A hash of an id chooses a bucket of 16 slots, in any of which the id may be. An id that is new gets an empty slot there, else
    that of a victim. An id that the same batch uses is never a victim; where the batch uses the whole bucket, a new id has no
    slot for now, which is a collision. Row 0 of the table is that of the ids without a slot, and the slots are rows from 1 on.

    Results depend on the ids, their order and the times alone, and nothing but `assign` and `restore` changes the map.

    Args:
        rows: Slots, rounded up to whole buckets; the table has one row more (`SlotMap.rows`).
        ways: Slots of a bucket.
        evict: Victim in a full bucket: `"lru"`, the id used least recently, or `"lfu"`, the one used least frequently (of equal
            ones the least recent). Counts are halved after ten uses for each slot, so that what was frequent once makes way.
        ttl: Time after which an id that was not used is forgotten; it is new when it comes back. `None`: never.
        admit: Uses from which on an id gets a slot, at most 255; they are counted by a count-min sketch of four rows, which may
            count too many where there are far more ids than slots.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> slots = SlotMap(32)
    >>> rows, replaced = slots.assign(np.array([7, 2**40, 7, -1]))
    >>> bool(rows[0] == rows[2] > 0), int(rows[3]), replaced.after.tolist()
    (True, -1, [7, 1099511627776])
    >>> bool((slots.find(np.array([2**40, 5])) == [rows[1], 0]).all())
    True

    Source: W-TinyLFU (Einziger et al. 2017) for counts that age; HierarchicalKV (NVIDIA) and MPZCH (TorchRec) for buckets;
    Caffeine (Manes) for a sketch whose counters of an id lie together.
    """

    def __init__(self, rows: int, ways: int = 16, evict: str = "lru", ttl: int | None = None, admit: int = 1) -> None:
        self.ways = integer("SlotMap", "ways", ways)
        self.buckets = -(-integer("SlotMap", "rows", rows, 1, 2**31 - 2**16) // self.ways)
        choice("SlotMap", "evict", evict, EVICT)
        self.evict = evict
        self.ttl = None if ttl is None else integer("SlotMap", "ttl", ttl)
        self.admit = integer("SlotMap", "admit", admit, 1, 255)
        # A bucket's ids, and then the use of each slot: an id that is there costs three lines of the processor's cache.
        self._memory = _in_lines(self.buckets, 4 * self.ways, np.int64)
        self._known = self._memory[:, : self.ways]
        self._known[:] = -1
        self._used = self._memory[:, self.ways :].reshape(self.buckets, self.ways, 3)
        # Four counters of each row a slot, at least: with ten times as many ids as slots an id shares few of them.
        lines = 1 << ((self.buckets * self.ways - 1) // 4).bit_length() if self.admit > 1 else 1
        self._sketch = _in_lines(lines, 64, np.uint8)
        self._totals = np.zeros(3, np.int64)
        self._now = self._uses = self._batch = 0

    @property
    def rows(self) -> int:
        """Rows of the table: all slots, and row 0."""
        return self.buckets * self.ways + 1

    @property
    def identities(self) -> np.ndarray:
        """The id of each slot, int64 (buckets, ways), -1 where it is empty: slot 1 + bucket · ways + way."""
        return self._known.copy()

    @property
    def occupied(self) -> int:
        """Slots that have an id."""
        return int((self._known >= 0).sum())

    @property
    def admitted(self) -> int:
        """Ids that have got a slot so far."""
        return int(self._totals[slot_search.ADMITTED])

    @property
    def evicted(self) -> int:
        """Ids that have lost their slot so far."""
        return int(self._totals[slot_search.EVICTED])

    @property
    def collisions(self) -> int:
        """Uses so far of ids that found all slots of their bucket in use by their own batch."""
        return int(self._totals[slot_search.COLLISIONS])

    @property
    def steps(self) -> int:
        """Batches so far that ids were assigned in, since the map was made or restored."""
        return self._batch

    @property
    def now(self) -> int:
        """Time of the last batch."""
        return self._now

    def assign(self, ids: Any, now: int | None = None) -> tuple[np.ndarray, Replaced]:
        """Slots of a batch's ids; new ones are inserted in order of appearance.

        Args:
            ids: Integer array of any shape: ids from 0 to 2⁶³-1. -1 is padding, and other negative numbers have no slot.
            now: This batch's time, in units of `ttl`; the number of batches so far, if omitted. A time before the latest one
                counts as that.

        Returns:
            int32 slots of the shape of the ids: 0 where an id has none, -1 for padding; and the slots that have got another id.

        Raises:
            TypeError: ids that are not integers.
        """
        flat = _flat(ids)
        if self._uses >= _AGE * self.buckets * self.ways:
            slot_search.halve(self._memory, self.ways, self._sketch)
            self._uses = 0
        self._now = self._now + 1 if now is None else max(self._now, int(now))
        self._batch += 1
        oldest = _NEVER if self.ttl is None else self._now - self.ttl
        slots, replaced = np.empty((2, len(flat)), np.int32)
        before, after = np.empty((2, len(flat)), np.int64)
        n, uses = slot_search.use(
            self._memory, self.ways, self._sketch, flat, self._now, oldest, self.evict == "lfu", self.admit, self._batch,
            slots, replaced, before, after, self._totals,
        )  # fmt: skip
        self._uses += uses
        return slots.reshape(np.shape(ids)), Replaced(replaced[:n], before[:n], after[:n])

    def find(self, ids: Any) -> np.ndarray:
        """Slots of ids as `assign` gives them, 0 for new ones. The map stays as it is.

        Raises:
            TypeError: ids that are not integers.
        """
        flat = _flat(ids)
        slots = np.empty(len(flat), np.int32)
        slot_search.find(self._memory, self.ways, flat, slots)
        return slots.reshape(np.shape(ids))

    def state(self) -> dict[str, np.ndarray]:
        """All that the map knows, as copies: arrays of the same shapes at any time."""
        return {
            "identities": self.identities,
            "last_seen": self._used[:, :, slot_search.SEEN].copy(),
            "count": self._used[:, :, slot_search.COUNT].copy(),
            "clock": np.array([self._now, self._uses, *self._totals], np.int64),
            "sketch": self._sketch.copy(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave.

        Raises:
            ValueError: the state is that of a map of another size, or not one; this map stays as it is.
        """
        own = self.state()
        for name, array in own.items():
            shape = np.shape(state[name]) if name in state else None
            if shape != array.shape:
                raise ValueError(
                    f"SlotMap: {name!r} of the state has shape {shape}; of a map with rows={self.buckets * self.ways}, "
                    f"ways={self.ways} and admit={self.admit} it is {array.shape}. Restore it into a map like its own."
                )
        self._known[:] = state["identities"]
        self._used[:, :, slot_search.SEEN] = state["last_seen"]
        self._used[:, :, slot_search.COUNT] = state["count"]
        self._used[:, :, slot_search.BATCH] = self._batch = 0
        self._sketch[:] = state["sketch"]
        clock = np.asarray(state["clock"], np.int64)
        self._now, self._uses = int(clock[0]), int(clock[1])
        self._totals[:] = clock[2:]


def _in_lines(rows: int, width: int, dtype: Any) -> np.ndarray:
    """Zeros whose first row begins with a line of the processor's cache."""
    size = rows * width * np.dtype(dtype).itemsize
    memory = np.zeros(size + _LINES, np.uint8)
    first = -memory.ctypes.data % _LINES
    return memory[first : first + size].view(dtype).reshape(rows, width)


def _flat(ids: Any) -> np.ndarray:
    array = np.asarray(ids)
    if array.dtype.kind not in "iu":
        raise TypeError(f"SlotMap: the ids have dtype {array.dtype}; they must be integers. Hash texts to integers first.")
    if array.dtype == np.uint64:
        array = np.where(array > np.iinfo(np.int64).max, np.uint64(np.iinfo(np.int64).max), array)
    return np.ascontiguousarray(array.reshape(-1), np.int64)
