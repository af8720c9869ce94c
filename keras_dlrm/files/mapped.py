"""Memory-mapped arrays."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np

from keras_dlrm.files.paths import regular


@dataclasses.dataclass(eq=False)
class MappedArray:
    """A read-only array in a file; `ValueError` where the file is missing or too short.

    Nothing is read before it is used, and it travels to other processes by name.
    """

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # (N, …)
    offset: int = 0  # bytes before the first element
    remedy: str = "Write it again."  # what errors advise
    order: Literal["C", "F"] = "C"  # of elements: row-major or column-major

    def __post_init__(self) -> None:
        self.path, self.dtype = Path(self.path).absolute(), np.dtype(self.dtype)
        self._map: Any = None
        self._open()

    @classmethod
    def npy(cls, path: Path, remedy: str = "Write it again.") -> Self:
        """The array of a `.npy` file; `ValueError` where it is none, damaged, or of Python objects."""
        with open(regular(path, "give an .npy file"), "rb") as file:
            try:
                shape, order, dtype = npy_header(file)
            except (ValueError, EOFError) as error:
                size = path.stat().st_size
                raise ValueError(f"{path} is damaged or cut short ({size} bytes: {error}). {remedy}") from error
            offset = file.tell()
        return cls(path, dtype, shape, offset, remedy, order)

    @property
    def bytes(self) -> int:
        """Size of the file from its beginning to the last element."""
        return self.offset + self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def _open(self) -> None:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            raise ValueError(f"{self.path} is missing, though {self.shape[0]} rows are promised. {self.remedy}") from None
        self._check_size(size)
        if 0 in self.shape:  # An empty file cannot be mapped.
            self._map = np.empty(self.shape, self.dtype)
        else:
            self._map = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)

    def _check_size(self, size: int) -> None:
        if size < self.bytes:
            raise ValueError(
                f"{self.path} is damaged or cut short ({size} bytes; {self.shape[0]} rows need {self.bytes}). {self.remedy}"
            )

    @property
    def array(self) -> np.ndarray:
        """The whole, as a memory map."""
        if self._map is None:
            self._open()
        return self._map

    def take(self, rows: Any) -> np.ndarray:
        """A copy of some rows, a slice or an array of numbers; `ValueError` where the file was cut short in the meantime."""
        array = self.array
        if isinstance(array, np.memmap):
            # To touch a page that its file no longer has would kill the process.
            self._check_size(array._mmap.size())  # type: ignore[attr-defined]
        plain = np.asarray(array)  # a memmap's own indexing takes longer
        if isinstance(rows, slice):
            return plain[rows].copy()
        # `take` is three times as fast, but would copy all of a column-major array first.
        return plain.take(rows, axis=0) if plain.flags.c_contiguous else plain[rows]

    def blocks(self, size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """The rows `start … stop - 1` in order, `size` at a time."""
        return (self.take(slice(begin, min(begin + size, stop))) for begin in range(start, stop, size))

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Shape, order and dtype at the beginning of a `.npy` file; the array follows. `ValueError` for Python objects."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, column_major, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, not numbers")
    return shape, "F" if column_major and len(shape) > 1 else "C", dtype
