"""`HostStack`: a stack of tables in a file, with a cache of its rows and their optimizer slots in variables on the device."""

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm import backend
from keras_dlrm.embeddings.host.drawn_rows import DrawnRows
from keras_dlrm.embeddings.host.row_cache import Moves, RowCache
from keras_dlrm.embeddings.host.row_file import RowFile
from keras_dlrm.initializers import StackedTables

_AT_ONCE = 1 << 16  # rows


@dataclasses.dataclass(frozen=True)
class Field:
    """A part of a record: the row of a table, or a slot of it."""

    variable: Any  # with the cached rows
    columns: slice  # of a record
    initial: float | None  # `None`: that of `DrawnRows`
    shape: tuple[int, ...]  # of one row of the variable


@dataclasses.dataclass
class _Arrival:
    number: int  # of the batch that needs it
    moves: Moves
    records: Future[np.ndarray]


class HostStack:
    """Records of a stack's rows, each a row and its optimizer slots one after the other.

    A record is in the cache, in the file, or nowhere: then it has its initial values. A thread of its own reads and writes the
    file, in the order in which it is asked to; records that it could not write stay in memory until it can.

    Args:
        table: Variable with the cached rows, (S, D).
        rows: Rows of the stack, R.
        initial: The stack's initializer.
        folder: Where the file is.
    """

    def __init__(self, table: Any, rows: int, initial: StackedTables, folder: Path) -> None:
        self.cache = RowCache(rows, int(table.shape[0]))
        self.rows, self.folder = rows, folder
        self._drawn = DrawnRows(initial, int(table.shape[1]))
        self._fields = [Field(table, slice(0, self._drawn.width), None, (self._drawn.width,))]
        self._file: RowFile | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._unwritten: deque[tuple[np.ndarray, np.ndarray]] = deque()
        self._arriving: deque[_Arrival] = deque()

    @property
    def row_width(self) -> int:
        """Numbers of a row, without its slots."""
        return self._drawn.width

    @property
    def width(self) -> int:
        """Numbers of a record."""
        return int(self._fields[-1].columns.stop)

    @property
    def disk(self) -> int:
        """Bytes of the file."""
        return 0 if self._file is None else self._file.disk

    def keep(self, slots: Mapping[str, tuple[Any, float]]) -> None:
        """Have records hold these slots, variables of S rows with their initial value, in place of those before."""
        self._forget()
        table, places = self._fields[0], self.cache.places
        old, self._file = self._file, None
        del self._fields[1:]
        for variable, initial in slots.values():
            shape = tuple(variable.shape[1:])
            columns = slice(self.width, self.width + (shape[0] if shape else 1))
            self._fields.append(Field(variable, columns, initial, shape))
            variable.host = self
        for start in range(0, places if old is not None else 0, _AT_ONCE):
            some = np.arange(start, min(start + _AT_ONCE, places))
            records = self._initial(np.zeros(len(some), np.int64))
            records[:, table.columns] = old.read(some)[:, table.columns]  # type: ignore[union-attr]
            self._write(some, records)

    # -- in a step ---------------------------------------------------------------------------------------------------

    def announce(self, rows: np.ndarray, number: int, changed: bool) -> np.ndarray | None:
        """Slots for the rows of a batch, as of `RowCache.announce`; the rows are on their way there."""
        slots, moves = self.cache.announce(rows, number, changed)
        leaving = moves.targets >= 0
        if leaving.any():
            self._unwritten.append((moves.targets[leaving], self._cached(moves.slots[leaving])))
        if len(moves.rows):
            self._arriving.append(_Arrival(number, moves, self._fetch(moves)))
        return slots

    def land(self, number: int | None = None) -> None:
        """Put the rows into the cache that the batches up to this one need, or all that are on their way.

        `OSError` where the file cannot be read or written; it can be called again.
        """
        while self._arriving and (number is None or self._arriving[0].number <= number):
            arrival = self._arriving[0]
            if arrival.records.exception() is not None:  # there may have been no room then, and be some now
                arrival.records = self._fetch(arrival.moves)
            values = arrival.records.result()
            for field in self._fields:
                part = values[:, field.columns].reshape(-1, *field.shape)
                backend.write_rows(field.variable, arrival.moves.slots.astype(np.int32), np.ascontiguousarray(part))
            self._arriving.popleft()

    def _fetch(self, moves: Moves) -> "Future[np.ndarray]":
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="keras_dlrm-host-rows")
        return self._thread.submit(self._stored, moves.rows, moves.sources)

    def _cached(self, slots: np.ndarray) -> np.ndarray:
        """Records of the cache, float32 (n, W)."""
        parts = [backend.read_rows(field.variable, slots.astype(np.int32)).reshape(len(slots), -1) for field in self._fields]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _stored(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Records of rows that are not in the cache, from their places in the file."""
        self._write_all()
        records = np.empty((len(rows), self.width), np.float32)
        known = places >= 0
        if known.any():
            records[known] = self._file.read(places[known])  # type: ignore[union-attr]
        if not known.all():
            records[~known] = self._initial(rows[~known])
        return records

    def _initial(self, rows: np.ndarray) -> np.ndarray:
        records = np.empty((len(rows), self.width), np.float32)
        for field in self._fields:
            records[:, field.columns] = self._drawn.rows(rows) if field.initial is None else field.initial
        return records

    def _write_all(self) -> None:
        while self._unwritten:
            places, records = self._unwritten[0]
            if self._file is None:
                self._file = RowFile(self.folder, self.rows, self.width)
            self._file.grow(int(places.max()) + 1)
            self._file.write(places, records)
            self._unwritten.popleft()

    def _write(self, places: np.ndarray, records: np.ndarray) -> None:
        self._unwritten.append((places, records))
        self._write_all()

    # -- between steps -----------------------------------------------------------------------------------------------

    def read(self, variable: Any, start: int, stop: int) -> np.ndarray:
        """Rows `start … stop - 1` of the table or of a slot, float32 (n, D) or (n,), wherever they are."""
        return self.read_at(variable, np.arange(start, stop))

    def read_at(self, variable: Any, rows: np.ndarray) -> np.ndarray:
        """Rows by their numbers, int64 (n,), likewise."""
        field = self._field(variable)
        self.land()
        return self._records(np.asarray(rows, np.int64))[:, field.columns].reshape(-1, *field.shape)

    def write(self, variable: Any, start: int, rows: np.ndarray) -> None:
        """Replace rows of the table or of a slot, from `start` on. Those that are the same take no disk."""
        field = self._field(variable)
        self._forget()
        for first in range(0, len(rows), _AT_ONCE):
            some = np.asarray(rows[first : first + _AT_ONCE], np.float32)
            numbers = np.arange(start + first, start + first + len(some))
            records = self._records(numbers)
            before = records[:, field.columns].copy()
            records[:, field.columns] = some.reshape(len(some), -1)
            # Bits, so that a NaN is as it was.
            other = (before.view(np.int32) != records[:, field.columns].copy().view(np.int32)).any(axis=1)
            if other.any():
                self._write(self.cache.place(numbers[other]), records[other])

    def not_finite(self) -> int | None:
        """Number of the first row in the cache that is NaN or infinite, if there is one."""
        self.land()
        used = np.flatnonzero(self.cache.row_of >= 0)
        for start in range(0, len(used), _AT_ONCE):
            some = used[start : start + _AT_ONCE]
            rows = backend.read_rows(self._fields[0].variable, some.astype(np.int32))
            wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if len(wrong):
                return int(self.cache.row_of[some[wrong[0]]])
        return None

    def _field(self, variable: Any) -> Field:
        return next(field for field in self._fields if field.variable is variable)

    def _records(self, rows: np.ndarray) -> np.ndarray:
        slots, places = self.cache.find(rows)
        here = slots >= 0
        if not here.any():
            return self._stored(rows, places)
        records = np.empty((len(rows), self.width), np.float32)
        records[here] = self._cached(slots[here])
        records[~here] = self._stored(rows[~here], places[~here])
        return records

    def _forget(self) -> None:
        """Write what the cache has, and empty it."""
        self.land()
        slots, places = self.cache.unwritten()
        for start in range(0, len(slots), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            self._unwritten.append((places[some], self._cached(slots[some])))
        self._write_all()
        self.cache.clear()


def parts_of(count: int) -> Iterator[tuple[int, int]]:
    """First and last row of parts of a table that are read or written at once."""
    return ((start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE))
