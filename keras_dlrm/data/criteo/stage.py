"""Rows of a Criteo log on disk, in the order of the log: what is known of it before its end is."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_dlrm.data.jobs.staging import Staging
from keras_dlrm.data.packed import format as layout
from keras_dlrm.schema.criteo import CATEGORICAL, DENSE

# A commit waits for the disk, so there is one every so many bytes: a kill costs a second or two of work.
COMMIT_BYTES = 2**27
# Parts that may wait to be written, some 12 MB each: parsing goes on while the disk takes its time.
AHEAD = 12
SPECS = {
    "label": (np.dtype(np.float32), None),
    "dense": (np.dtype(np.float32), len(DENSE)),
    "sparse": (np.dtype(np.int32), len(CATEGORICAL)),
}
HEADER = len(layout.array_header(*SPECS["label"], 0))

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


class Stage:
    """Label, dense values and ids of the rows so far, and the values of the vocabularies in the order of their ids.

    Writing goes on in a thread of its own while the next rows are parsed. Each file has room for the header of a
    `.npy` file, so that rows that need no further work become the training split where they are.

    Args:
        staging: Where the files are.
        dense: dtype of the dense values at this stage, of 4 bytes.
    """

    def __init__(self, staging: Staging, dense: type[np.generic]) -> None:
        self.staging = staging
        self._dense = np.dtype(dense)
        self._thread = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._uncommitted = 0
        if staging.state is None:
            for name, (dtype, width) in SPECS.items():
                staging.append(name, layout.array_header(dtype, width, 0))

    def append(self, rows: Rows, new: Sequence[np.ndarray], kept: np.ndarray | None, state: Any) -> None:
        """Add rows.

        Args:
            rows: Label float32 (n,), dense (n, 13), ids int32 (n, 26).
            new: For each categorical column, the uint64 values that these rows were the first to have.
            kept: Whether sub-sampling left it, for each line that the rows come from; or `None`.
            state: What `Staging.commit` is given.
        """
        self._wait(AHEAD - 1)
        self._pending.append(self._thread.submit(self._write, rows, new, kept, state))

    def _write(self, rows: Rows, new: Sequence[np.ndarray], kept: np.ndarray | None, state: Any) -> None:
        parts = dict(zip(SPECS, rows, strict=True))
        sizes = np.array([len(values) for values in new], np.int64)
        written = 0
        for name, array in [*parts.items(), *(("keys", a) for a in (sizes, *new)), ("kept", kept)]:
            if array is not None:
                data = as_bytes(array)
                self.staging.append(name, data)
                written += len(data)
        self._uncommitted += written
        if self._uncommitted >= COMMIT_BYTES:
            self.staging.commit(state)
            self._uncommitted = 0

    def _wait(self, most: int = 0) -> None:
        """Until no more than `most` parts are still to be written; raises what went wrong with one that is."""
        while len(self._pending) > most:
            self._pending.popleft().result()

    def commit(self, state: Any) -> None:
        """Keep all that was appended."""
        self._wait()
        self.staging.commit(state)
        self._uncommitted = 0

    def known(self) -> list[np.ndarray]:
        """The values of the 26 vocabularies, as far as they are committed."""
        pieces: list[list[np.ndarray]] = [[np.empty(0, np.uint64)] for _ in CATEGORICAL]
        path = self.staging.path("keys")
        if path.exists():
            with open(path, "rb") as file:
                while len(sizes := np.fromfile(file, np.int64, len(CATEGORICAL))):
                    for column, size in zip(pieces, sizes.tolist(), strict=True):
                        column.append(np.fromfile(file, np.uint64, size))
        return [np.concatenate(column) for column in pieces]

    def kept(self, first: int, last: int) -> int:
        """How many of some lines sub-sampling left."""
        path = self.staging.path("kept")
        total = 0
        for start in range(first, last, 2**24):
            total += int(np.fromfile(path, np.uint8, min(2**24, last - start), offset=start).sum())
        return total

    def read(self, first: int, last: int) -> Rows:
        """Rows that were committed: label float32 (n,), dense (n, 13), ids int32 (n, 26)."""
        found = []
        for name, (dtype, width) in SPECS.items():
            dtype = self._dense if name == "dense" else dtype
            row = (width or 1) * dtype.itemsize
            values = np.fromfile(
                self.staging.path(name), dtype, (last - first) * (width or 1), offset=HEADER + first * row
            )
            found.append(values if width is None else values.reshape(-1, width))
        return found[0], found[1], found[2]

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def as_bytes(array: np.ndarray) -> memoryview:
    """The memory of an array, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
