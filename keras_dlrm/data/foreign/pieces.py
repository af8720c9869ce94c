"""Columns in files: arrays of `.npz` files, memory maps, several files one after the other."""

from __future__ import annotations

import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from keras_dlrm.data.packed.filling import joined, refilled
from keras_dlrm.files.mapped import MappedArray, npy_header
from keras_dlrm.files.paths import regular

Arrays = tuple[np.ndarray, ...]


class Piece:
    """Columns of equal length, such as the files of one day, or the rows `start … stop - 1` of them."""

    def __init__(self, name: str, columns: Sequence[NpzArray | MappedArray], start: int = 0, stop: int | None = None) -> None:
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
    return {"train": Pieces(train), first: Pieces([last.part(0, half)]), second: Pieces([last.part(half, len(last))])}


def check_array(column: NpzArray | MappedArray, kinds: str, width: tuple[int, ...], remedy: str = "") -> None:
    """`ValueError` unless an array is of one of the kinds of dtype, and of shape (N, *width)."""
    if column.dtype.kind not in kinds or len(column.shape) != len(width) + 1 or column.shape[1:] != width:
        what = {"f": "floats", "iu": "integers", "iuf": "numbers"}[kinds]
        shape = f"(N{', ' if width else ','}{''.join(map(str, width))})"
        where = column.where if isinstance(column, NpzArray) else column.path
        raise ValueError(f"{where} is {column.dtype} {column.shape}; it must hold {what} of shape {shape}.{remedy}")


# Bytes read at once, of compressed arrays.
_CHUNK = 2**24


class NpzArray:
    """One array of a `.npz` file. It is read when it is first used.

    What `np.savez` wrote stays in its file, mapped into memory. What `np.savez_compressed` wrote cannot: `blocks` reads
    it in passing, in bounded memory, and `take` loads all of it. `ValueError` where the array is missing or damaged.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = regular(Path(path).absolute(), "give an .npz file")
        self.name = name
        self.where = f"{self.path}, array {name!r}"
        with self._member() as file:
            offset = file.tell()
        self._mapped: MappedArray | None = None
        if self._info.compress_type == zipfile.ZIP_STORED:
            # A local header of 30 bytes ends with the lengths of the fields behind it (PKWARE, APPNOTE 4.3.7).
            with open(self.path, "rb") as archive:
                archive.seek(self._info.header_offset + 26)
                begin = self._info.header_offset + 30 + int(np.frombuffer(archive.read(4), "<u2").sum()) + offset
            self._mapped = MappedArray(self.path, self.dtype, self.shape, begin, "Get the file again.", self.order)
        self._loaded: np.ndarray | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: Any) -> np.ndarray:
        """A copy of some rows: `rows` is a slice or an array of row numbers."""
        if self._mapped is not None:
            return self._mapped.take(rows)
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
        return self._loaded[rows].copy() if isinstance(rows, slice) else self._loaded.take(rows, axis=0)

    def blocks(self, size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """The rows `start … stop - 1` in order, `size` at a time."""
        if self._mapped is not None or self._loaded is not None or self.order == "F":
            for begin in range(start, stop, size):
                yield self.take(slice(begin, min(begin + size, stop)))
            return
        width = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        with self._member() as file:
            for begin in range(0, start * width, _CHUNK):
                self._read(file, min(_CHUNK, start * width - begin))
            for begin in range(start, stop, size):
                rows = min(begin + size, stop) - begin
                yield np.frombuffer(self._read(file, rows * width), self.dtype).reshape(rows, *self.shape[1:])

    def _load(self) -> np.ndarray:
        # Row-major whatever the file's order is, and floats that stand for ids as ids: a third to a half of the memory.
        kind = np.dtype(np.int32) if self.dtype.kind == "f" and self.dtype.itemsize > 4 else self.dtype
        out = np.empty(self.shape, kind)
        with self._member() as file:
            if self.order == "F":
                for column in range(int(np.prod(self.shape[1:], dtype=np.int64))):
                    read = np.frombuffer(self._read(file, len(self) * self.dtype.itemsize), self.dtype)
                    place: Any = (slice(None), *np.unravel_index(column, self.shape[1:], order="F"))
                    out[place] = self._whole(read, kind, lambda i, column=column: (i, column))  # type: ignore[misc]
            else:
                flat, done, width = out.reshape(-1), 0, int(np.prod(self.shape[1:], dtype=np.int64))
                while done < len(flat):
                    count = min(_CHUNK // self.dtype.itemsize, len(flat) - done)
                    read = np.frombuffer(self._read(file, count * self.dtype.itemsize), self.dtype)
                    flat[done : done + count] = self._whole(
                        read, kind, lambda i, done=done: divmod(done + i, width)  # type: ignore[misc]
                    )
                    done += count
        return out

    def _whole(self, values: np.ndarray, kind: np.dtype[Any], place: Callable[[int], tuple[int, int]]) -> np.ndarray:
        """Values as int32, where they are to be; `place` says where one is in the array."""
        if values.dtype == kind:
            return values
        with np.errstate(invalid="ignore"):
            integers = values.astype(kind)
        bad = integers != values
        if bad.any():
            first = int(np.argmax(bad))
            row, column = place(first)
            raise ValueError(
                f"{self.where}, row {row}, column {column}: value {values[first]} must be an integer below 2^31."
            )
        return integers

    def _member(self) -> IO[bytes]:
        """The array's file, with its header read."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = sorted(name.removesuffix(".npy") for name in archive.namelist())
                if self.name not in names:
                    raise ValueError(f"{self.path} has no array {self.name!r}; it has {names}.")
                self._info = archive.getinfo(f"{self.name}.npy")
                file = archive.open(self._info)
        except zipfile.BadZipFile as error:
            size = self.path.stat().st_size
            raise ValueError(f"{self.path} is not an .npz file, or cut short ({size} bytes: {error}).") from error
        try:
            self.shape, self.order, self.dtype = npy_header(file)
        except (ValueError, zlib.error, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{self.where} is damaged ({error}). Get the file again.") from error
        return file

    def _read(self, file: IO[bytes], count: int) -> bytes:
        try:
            data = file.read(count)
        except (zlib.error, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{self.where} is damaged ({error}). Get the file again.") from error
        if len(data) < count:
            raise ValueError(f"{self.where} is cut short: {len(data)} of {count} bytes. Get the file again.")
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
