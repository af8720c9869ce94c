"""Rows in a file without a name, which grows as rows are added to it and is gone with its process."""

import mmap
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.kernels.compiled import compiled

_STEP = 1 << 26  # bytes that a file grows by


class RowFile:
    """Rows of float32 in a file, mapped into memory.

    The file has no name: a process that ends, however it ends, leaves nothing, and no two share one. It has disk for each row
    before that is written, so that a full disk is an error: a write through a memory map would end the process.

    Args:
        folder: Where the disk is; it is made.
        most: Rows that it may come to have.
        width: Numbers of a row, W.

    Raises:
        OSError: the folder cannot be made, or its disk takes no file of that size.

    Example:

    >>> import tempfile
    >>> file = RowFile(Path(tempfile.mkdtemp()), 1000, 4)
    >>> file.grow(2)
    >>> file.write(np.array([1, 0]), np.array([[1] * 4, [2] * 4], np.float32))
    >>> file.read(np.array([0])).tolist()
    [[2.0, 2.0, 2.0, 2.0]]
    """

    def __init__(self, folder: Path, most: int, width: int) -> None:
        self.folder, self._size, self._bytes = folder, 4 * width, most * width * 4
        self._grown = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._file, name = tempfile.mkstemp(dir=folder)
        os.unlink(name)
        weakref.finalize(self, os.close, self._file)
        os.truncate(self._file, self._bytes)
        map_of_file = mmap.mmap(self._file, self._bytes)
        if hasattr(mmap, "MADV_RANDOM"):
            map_of_file.madvise(mmap.MADV_RANDOM)  # rows around one that is read are not wanted, too
        self._rows = np.frombuffer(map_of_file, np.float32).reshape(most, width)

    @property
    def disk(self) -> int:
        """Bytes of disk that it has."""
        return self._grown

    def grow(self, rows: int) -> None:
        """See that there is disk for the first `rows` rows; `OSError` where there is not, and all is as before."""
        if rows * self._size <= self._grown:
            return
        size = min(-(-rows * self._size // _STEP) * _STEP, self._bytes)
        try:
            os.posix_fallocate(self._file, self._grown, size - self._grown)
        except OSError as error:
            raise OSError(
                error.errno, f"HostTables: {self.folder} has no room for {size - self._grown:,} more bytes: {error.strerror}. "
                "Nothing is lost: make room there and go on, or save the model elsewhere",
            ) from error  # fmt: skip
        self._grown = size

    def read(self, places: np.ndarray) -> np.ndarray:
        """Rows, float32 (n, W), by their places, int64 (n,), of those that there is disk for."""
        self._check()
        rows = np.empty((len(places), self._rows.shape[1]), np.float32)
        _read(self._rows, places, rows)
        return rows

    def write(self, places: np.ndarray, rows: np.ndarray) -> None:
        """Replace rows; arguments as of `read` and its result."""
        self._check()
        _write(self._rows, places, rows)

    def _check(self) -> None:
        size = os.fstat(self._file).st_size
        if size < self._bytes:  # To touch a page that the file no longer has would end the process.
            raise OSError(
                f"HostTables: the file of rows in {self.folder} was cut short, to {size:,} of {self._bytes:,} bytes. The rows in "
                "it are lost: restore the last checkpoint into a new model"
            )


# Not NumPy's own: other threads run while these do.


@compiled
def _read(file: Any, places: Any, rows: Any) -> None:
    for i in range(len(places)):
        rows[i] = file[places[i]]


@compiled
def _write(file: Any, places: Any, rows: Any) -> None:
    for i in range(len(places)):
        file[places[i]] = rows[i]
