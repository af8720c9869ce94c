"""Columns that are spread over several files, read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from keras_dlrm.data.packed.filling import joined, refilled
from keras_dlrm.files.mapped import MappedArray

Arrays = tuple[np.ndarray, ...]


class Column(Protocol):
    """An array in a file, such as `NpzArray`."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def take(self, rows: Any) -> np.ndarray:
        """A copy of some rows."""

    def blocks(self, size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows in order, `size` at a time."""


class Mapped(MappedArray):
    """A `MappedArray` as a `Column`."""

    def blocks(self, size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows in order, `size` at a time."""
        return (self.take(slice(begin, min(begin + size, stop))) for begin in range(start, stop, size))


class Piece:
    """Columns of equal length, such as the files of one day, or the rows `start … stop - 1` of them."""

    def __init__(self, name: str, columns: Sequence[Column], start: int = 0, stop: int | None = None) -> None:
        lengths = [len(column) for column in columns]
        if len(set(lengths)) > 1:
            raise ValueError(f"{name}: its arrays have {lengths} rows; they must agree. Get the files again.")
        self.name = name
        self.columns = columns
        self.start = start
        self.stop = lengths[0] if stop is None else stop

    def part(self, start: int, stop: int) -> Piece:
        """Some of its rows."""
        return Piece(self.name, self.columns, self.start + start, self.start + stop)

    def __len__(self) -> int:
        return self.stop - self.start

    def take(self, rows: Any) -> Arrays:
        """Copies of some rows of each column: `rows` is a slice with both ends, or an array."""
        if isinstance(rows, slice):
            rows = slice(self.start + rows.start, self.start + rows.stop)
        else:
            rows = rows + self.start
        return tuple(column.take(rows) for column in self.columns)

    def blocks(self, size: int) -> Iterator[Arrays]:
        """All rows in order, `size` at a time."""
        return zip(*(column.blocks(size, self.start, self.stop) for column in self.columns), strict=True)


class Pieces:
    """Pieces, at least one, one after the other."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = list(pieces)
        self._ends = np.cumsum([len(piece) for piece in self.pieces])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def first_columns(self) -> Pieces:
        """Rows of the first columns alone."""
        return Pieces([Piece(piece.name, piece.columns[:1], piece.start, piece.stop) for piece in self.pieces])

    def place(self, row: int) -> tuple[str, int]:
        """Name of the piece that a row is in, and the row's number there."""
        which = int(np.searchsorted(self._ends, row, side="right"))
        piece = self.pieces[which]
        return piece.name, piece.start + row - (int(self._ends[which]) - len(piece))

    def take(self, rows: Any) -> Arrays:
        """Copies of some rows: `rows` is a slice or an array of row numbers, `IndexError` where one is out of range."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._range(start, max(start, stop))
            rows = np.arange(start, stop, step)
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"row {rows.max() if rows.max() >= len(self) else rows.min()} of {len(self)}.")
        if len(self.pieces) == 1:
            return self.pieces[0].take(rows)
        which = np.searchsorted(self._ends, rows, side="right")
        places, taken = [], []
        for index in np.unique(which):
            places.append(np.flatnonzero(which == index))
            piece = self.pieces[index]
            taken.append(piece.take(rows[places[-1]] - (self._ends[index] - len(piece))))
        if not taken:
            return self._range(0, 0)
        out = []
        for parts in zip(*taken, strict=True):
            # A day may hold floats where another one has integers.
            whole = np.empty((len(rows), *parts[0].shape[1:]), np.result_type(*parts))
            for place, part in zip(places, parts, strict=True):
                whole[place] = part
            out.append(whole)
        return tuple(out)

    def _range(self, start: int, stop: int) -> Arrays:
        parts = []
        begin = 0
        for piece in self.pieces:
            first, last = max(start - begin, 0), min(stop - begin, len(piece))
            if first < last:
                parts.append(piece.take(slice(first, last)))
            begin += len(piece)
        return joined(parts or [self.pieces[0].take(slice(0, 0))])

    def blocks(self, size: int) -> Iterator[Arrays]:
        """All rows in order, `size` at a time whatever piece they are in, the last time what is left."""
        return refilled((block for piece in self.pieces for block in piece.blocks(size)), size)


def by_split(days: Sequence[Piece], halves: tuple[str, str]) -> dict[str, Pieces]:
    """All days but the last as `"train"`, and the halves of the last, the longer one first, under the given names."""
    *train, last = days
    half = -(-len(last) // 2)
    first, second = halves
    return {
        "train": Pieces(train),
        first: Pieces([last.part(0, half)]),
        second: Pieces([last.part(half, len(last))]),
    }
