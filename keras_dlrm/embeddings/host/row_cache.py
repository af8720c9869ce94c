"""Policy of a cache of rows: which of its slots a row is in, and which row gives way to another."""

import dataclasses
from typing import Any

import numpy as np

from keras_dlrm.data.kernels.compiled import compiled


@dataclasses.dataclass(frozen=True)
class Moves:
    """Rows that give way to others in a cache. Arrays have one entry for each row that comes in.

    Attributes:
        slots: Slot that it comes into, int64.
        rows: Its number, int64.
        sources: Its place in the file, int64; -1: it is not there, and has its initial value.
        targets: Place in the file that the slot's former row goes to, int64; -1: that need not be written.
    """

    slots: np.ndarray
    rows: np.ndarray
    sources: np.ndarray
    targets: np.ndarray


class RowCache:
    """Slots of a cache and places of a file for rows that are known by number; it holds numbers alone, no row.

    The row that was used, or announced, longest ago gives way. Rows of a batch that is announced and not done stay: so none that
    is coming is given up. There is room for any rows, wherever their numbers are: a map of few ways could refuse one.

    Args:
        rows: R; 4 bytes of memory for each.
        slots: S; 33 bytes of memory for each.

    Attributes:
        places: Places of the file in use, from 0 on.
        cleared: How often it was cleared: slots that were announced before are no more.

    Example:

    >>> cache = RowCache(1000, 2)
    >>> slots, moves = cache.announce(np.array([7, 7, -1, 9]), 0, changed=True)
    >>> slots.tolist(), moves.rows.tolist()
    ([0, 0, -1, 1], [7, 9])
    >>> cache.done = 0
    >>> slots, moves = cache.announce(np.array([9, 8]), 1, changed=False)
    >>> slots.tolist(), moves.rows.tolist(), moves.targets.tolist()
    ([1, 0], [8], [0])
    """

    def __init__(self, rows: int, slots: int) -> None:
        self.done = -1  # number of the last batch whose rows may give way
        self.places = self.cleared = 0
        # Slot + 1 of a row in the cache, -1 - place of one in the file alone, 0 of one that has its initial value.
        self._index = np.zeros(rows, np.int32)
        self._empty(slots)

    def _empty(self, slots: int) -> None:
        self.row_of = np.full(slots, -1, np.int64)
        self.place_of = np.full(slots, -1, np.int32)  # of a slot's row in the file
        self.changed = np.zeros(slots, np.bool_)  # since it came in
        self._needed = np.full(slots, -1, np.int64)  # number of the last batch that needs it
        # A ring of slots, newest first, around one that is none.
        ring = np.arange(slots + 1, dtype=np.int32)
        self._older, self._newer = np.roll(ring, 1), np.roll(ring, -1)

    def clear(self) -> None:
        """Forget the rows of all slots: they are in the file, or have their initial values. Changes not written are lost."""
        held = self.row_of >= 0
        self._index[self.row_of[held]] = np.where(self.place_of[held] >= 0, -1 - self.place_of[held], 0)
        self._empty(len(self.row_of))
        self.cleared += 1

    def announce(self, rows: np.ndarray, number: int, changed: bool) -> tuple[np.ndarray | None, Moves]:
        """Slots for the rows of a batch.

        Args:
            rows: int64 (n,), repeated ones too; negative: none.
            number: The batch's, larger than those before.
            changed: Whether the batch changes them.

        Returns:
            Slots, int32 (n,), -1 for none, and the moves that bring rows there. `None` in place of the slots where too few may give
            way: then some rows are there, and it is to be announced again when more batches are done.
        """
        slots = np.empty(len(rows), np.int32)
        new = np.empty((4, min(len(rows), len(self.row_of))), np.int64)
        count, self.places, complete = _announce(
            rows, number, self.done, changed, self._index, self.row_of, self.place_of, self.changed, self._needed, self._older,
            self._newer, self.places, slots, new,
        )  # fmt: skip
        return slots if complete else None, Moves(*new[:, :count])

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slots of rows, int64 (n,), -1 where they are not in the cache, and their places in the file, -1 likewise; no change."""
        index = self._index[rows].astype(np.int64)
        slots = np.where(index > 0, index - 1, -1)
        return slots, np.where(index > 0, self.place_of[slots], np.where(index < 0, -1 - index, -1))

    def place(self, rows: np.ndarray) -> np.ndarray:
        """Places in the file for rows that are not in the cache, int64 (n,); new ones where they have none."""
        _, places = self.find(rows)
        missing = places < 0
        places[missing] = self.places + np.arange(missing.sum())
        self.places += int(missing.sum())
        self._index[rows] = -1 - places
        return places

    def unwritten(self) -> tuple[np.ndarray, np.ndarray]:
        """Slots whose rows were changed, and the places in the file for them, which they have from now on; both int64."""
        slots = np.flatnonzero(self.changed)
        missing = slots[self.place_of[slots] < 0]
        self.place_of[missing] = self.places + np.arange(len(missing))
        self.places += len(missing)
        self.changed[slots] = False
        return slots, self.place_of[slots].astype(np.int64)


@compiled
def _to_front(slot: Any, older: Any, newer: Any) -> None:
    end = len(older) - 1
    older[newer[slot]], newer[older[slot]] = older[slot], newer[slot]
    first = older[end]
    older[end], older[slot] = slot, first
    newer[first], newer[slot] = slot, end


@compiled
def _announce(
    rows: Any, number: Any, done: Any, changes: Any, index: Any, row_of: Any, place_of: Any, changed: Any, needed: Any, older: Any,
    newer: Any, places: Any, slots: Any, new: Any,
) -> Any:  # fmt: skip
    missing = 0
    # All that are there before any other comes: none of them may give way.
    for i in range(len(rows)):
        slot = -1 if rows[i] < 0 else index[rows[i]] - 1
        slots[i] = slot
        if slot >= 0:
            if needed[slot] != number:
                needed[slot] = number
                _to_front(slot, older, newer)
            changed[slot] |= changes
        elif rows[i] >= 0:
            slots[i] = -2
            missing += 1
    count, end = 0, len(row_of)
    if not missing:
        return count, places, True
    for i in range(len(rows)):
        if slots[i] != -2:
            continue
        row = rows[i]
        if index[row] > 0:  # it came in for an earlier place of the batch
            slots[i] = index[row] - 1
            continue
        slot = newer[end]
        # The older a slot is in the ring, the earlier it was needed last.
        if needed[slot] > done:
            return count, places, False
        former, target = row_of[slot], place_of[slot]
        if former >= 0:
            if changed[slot] and target < 0:
                target, places = places, places + 1
            index[former] = 0 if target < 0 else -1 - target
        new[0, count], new[1, count] = slot, row
        new[2, count] = -1 - index[row] if index[row] < 0 else -1
        new[3, count] = target if changed[slot] else -1
        row_of[slot], place_of[slot], changed[slot], needed[slot] = row, new[2, count], changes, number
        index[row] = slot + 1
        _to_front(slot, older, newer)
        slots[i] = slot
        count += 1
    return count, places, True
