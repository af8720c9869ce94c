"""Staged rows of a table, and the texts that they are numbered by, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dlrm.data.jobs.stage import Stage
from keras_dlrm.data.jobs.staging import Staging
from keras_dlrm.data.kernels.text_ids import TextIds, Texts
from keras_dlrm.data.tables.columns import Rows
from keras_dlrm.schema.schema import Schema


class TableStage(Stage):
    """Staged rows, and the numbered texts by table, which get the committed ones. `late` dense columns wait for statistics."""

    def __init__(self, staging: Staging, schema: Schema, late: int, texts: Mapping[str, TextIds]) -> None:
        specs: dict[str, tuple[Any, int | None]] = {
            "label": (np.float32, None),
            "sample_weight": (np.float32, None),
            "dense": (np.float32, schema.n_dense),
            "late": (np.float64, late),
            "sparse": (np.int32, schema.width),
        }
        if schema.sample_weight is None:
            del specs["sample_weight"]
        super().__init__(staging, specs)
        self._texts = dict(texts)
        for k, ids in enumerate(self._texts.values()):
            self._restore(k, ids)
        self._saved = {table: len(ids) for table, ids in self._texts.items()}

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
        parts = [(name, getattr(rows, name)) for name, (_, width) in self.specs.items() if width != 0]
        for k, (table, ids) in enumerate(self._texts.items()):
            texts = ids.since(self._saved[table])
            # Copies: the next rows may move the arrays while these are written.
            parts += [(f"sizes{k}", texts.ends - texts.starts), (f"texts{k}", texts.data.copy())]
            self._saved[table] = len(ids)
        self.write(parts, state)
