"""Rows of a log on disk, in the order of the input, until the whole log was read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_dlrm.data.jobs.staging import Staging

# A commit waits for the disk, so there is one every so many bytes: a kill costs a second or two of work.
COMMIT_BYTES = 2**27
# Rows at a time when they are read back. Statistics are sums over such chunks, so this is part of the result.
CHUNK = 65_536


class Stage:
    """Staged rows in a file per array. A thread writes them while the next rows are worked on.

    Args:
        staging: Where the files are.
        specs: dtype and width by array; a width of `None` is a one-dimensional array, 0 one without a file.
        header: Bytes before the first row of a file.
        ahead: Parts that may wait to be written.
    """

    def __init__(
        self, staging: Staging, specs: Mapping[str, tuple[Any, int | None]], header: int = 0, ahead: int = 1
    ) -> None:
        self.staging, self.specs = staging, specs
        self._header, self._ahead = header, ahead
        self._thread = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._uncommitted = 0

    def write(self, parts: Iterable[tuple[str, np.ndarray]], state: Any) -> None:
        """Append arrays to files; `state` is what a commit after them keeps."""
        self._wait(self._ahead - 1)
        self._pending.append(self._thread.submit(self._write, parts, state))

    def _write(self, parts: Iterable[tuple[str, np.ndarray]], state: Any) -> None:
        for name, array in parts:
            data = as_bytes(array)
            self.staging.append(name, data)
            self._uncommitted += len(data)
        if self._uncommitted >= COMMIT_BYTES:
            self.staging.commit(state)
            self._uncommitted = 0

    def _wait(self, most: int = 0) -> None:
        """Wait until at most `most` parts are still to be written; raise what went wrong with the others."""
        while len(self._pending) > most:
            self._pending.popleft().result()

    def commit(self, state: Any) -> None:
        """Keep all that was written."""
        self._wait()
        self.staging.commit(state)
        self._uncommitted = 0

    def read(self, name: str, first: int, last: int) -> np.ndarray:
        """Committed rows `first … last - 1` of an array."""
        dtype, width = self.specs[name]
        if width == 0:
            return np.empty((last - first, 0), dtype)
        columns = width or 1
        offset = self._header + first * columns * np.dtype(dtype).itemsize
        values = np.fromfile(self.staging.path(name), dtype, (last - first) * columns, offset=offset)
        return values if width is None else values.reshape(-1, width)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def chunks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """First and last row of each chunk of the rows `first … last - 1`."""
    for start in range(first, last, CHUNK):
        yield start, min(start + CHUNK, last)


def as_bytes(array: np.ndarray) -> memoryview:
    """The memory of an array, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
