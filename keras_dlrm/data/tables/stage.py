"""Rows of a table on disk, in the order of the input: what is known of them before its end is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_dlrm.data.jobs.staging import Staging
from keras_dlrm.data.kernels.text_ids import TextIds, Texts
from keras_dlrm.data.tables.columns import Rows
from keras_dlrm.schema.schema import Schema

# A commit waits for the disk, so there is one every so many bytes: a kill costs a second or two of work.
COMMIT_BYTES = 2**27
# Rows at a time when they are read back. The statistics are sums over such chunks, so this is part of the result.
CHUNK = 65_536


class Stage:
    """Staged rows, and the texts that they are numbered by, in the order of their numbers.

    Writing goes on in a thread of its own while the next rows are worked on.

    Args:
        staging: Where the files are.
        schema: The columns.
        late: How many dense columns wait for their statistics.
        texts: The numbered texts by table; those that were committed are put into it.
    """

    def __init__(self, staging: Staging, schema: Schema, late: int, texts: Mapping[str, TextIds]) -> None:
        self.staging = staging
        weights = int(schema.sample_weight is not None)
        self.widths = {
            "label": 1, "sample_weight": weights, "dense": schema.n_dense, "late": late, "sparse": schema.width
        }  # fmt: skip
        self._dtypes = {**dict.fromkeys(self.widths, np.float32), "late": np.float64, "sparse": np.int32}
        self._texts = dict(texts)
        self._saved = {table: 0 for table in texts}
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._uncommitted = 0
        for k, (table, ids) in enumerate(self._texts.items()):
            self._restore(k, ids)
            self._saved[table] = len(ids)

    def _restore(self, k: int, ids: TextIds) -> None:
        """Number the committed texts of a table again."""
        sizes_path, bytes_path = self.staging.path(f"sizes{k}"), self.staging.path(f"texts{k}")
        if self.staging.state is None or not sizes_path.exists():
            return
        with open(sizes_path, "rb") as sizes, open(bytes_path, "rb") as data:
            while len(part := np.fromfile(sizes, np.int64, 2**20)):
                ends = np.cumsum(part)
                content = np.fromfile(data, np.uint8, int(ends[-1]))
                ids.encode(Texts(content, ends - part, ends))

    def append(self, rows: Rows, state: Any) -> None:
        """Add rows; `state` is what a commit after them keeps."""
        new = []
        for table, ids in self._texts.items():
            texts = ids.since(self._saved[table])
            # Copies: the next rows may move the arrays while these are written.
            new.append((texts.ends - texts.starts, texts.data.copy()))
            self._saved[table] = len(ids)
        self._wait()
        self._pending = self._thread.submit(self._write, rows, new, state)

    def _write(self, rows: Rows, new: list[tuple[np.ndarray, np.ndarray]], state: Any) -> None:
        parts = [(name, getattr(rows, name)) for name, width in self.widths.items() if width]
        for k, (sizes, data) in enumerate(new):
            parts += [(f"sizes{k}", sizes), (f"texts{k}", data)]
        for name, array in parts:
            content = as_bytes(array)
            self.staging.append(name, content)
            self._uncommitted += len(content)
        if self._uncommitted >= COMMIT_BYTES:
            self.staging.commit(state)
            self._uncommitted = 0

    def _wait(self) -> None:
        """Until all is written; raises what went wrong."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def commit(self, state: Any) -> None:
        """Keep all that was appended."""
        self._wait()
        self.staging.commit(state)
        self._uncommitted = 0

    def read(self, name: str, first: int, last: int) -> np.ndarray:
        """Committed rows `first … last - 1` of `"label"`, `"sample_weight"`, `"dense"`, `"late"` or `"sparse"`, (n, width)."""
        width, dtype = self.widths[name], np.dtype(self._dtypes[name])
        if not width:
            return np.empty((last - first, 0), dtype)
        offset = first * width * dtype.itemsize
        return np.fromfile(self.staging.path(name), dtype, (last - first) * width, offset=offset).reshape(-1, width)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def chunks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Rows `first … last - 1` in chunks."""
    for start in range(first, last, CHUNK):
        yield start, min(start + CHUNK, last)


def as_bytes(array: np.ndarray) -> memoryview:
    """The memory of an array, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
