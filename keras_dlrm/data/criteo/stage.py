"""Staged rows of a Criteo log, and the values of its vocabularies in the order of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dlrm.data.jobs.stage import Stage
from keras_dlrm.data.jobs.staging import Staging
from keras_dlrm.data.packed import format as layout
from keras_dlrm.schema.criteo import CATEGORICAL, DENSE

# Parts that may wait to be written, some 12 MB each: parsing goes on while the disk takes its time.
AHEAD = 12
SPECS = {
    "label": (np.dtype(np.float32), None),
    "dense": (np.dtype(np.float32), len(DENSE)),
    "sparse": (np.dtype(np.int32), len(CATEGORICAL)),
}
HEADER = len(layout.array_header(*SPECS["label"], 0))

# Arrays of `SPECS`: label (n,), dense (n, 13), sparse (n, 26).
Rows = dict[str, np.ndarray]


class CriteoStage(Stage):
    """Staged rows. Each file has room for the header of a `.npy` file: rows that are final become a split where they are.

    Args:
        staging: Where the files are.
        dense: dtype of the staged dense values, of 4 bytes.
    """

    def __init__(self, staging: Staging, dense: type[np.generic]) -> None:
        super().__init__(staging, {**SPECS, "dense": (np.dtype(dense), len(DENSE))}, HEADER, AHEAD)
        if staging.state is None:
            for name, spec in SPECS.items():
                staging.append(name, layout.array_header(*spec, 0))

    def append(self, rows: Rows, new: Sequence[np.ndarray], kept: np.ndarray | None, state: Any) -> None:
        """Add rows.

        Args:
            rows: The rows.
            new: For each categorical column, the uint64 values that these rows were the first to have.
            kept: Whether subsampling kept it, for each line that the rows come from; or `None`.
            state: What a commit after them keeps.
        """
        sizes = np.array([len(values) for values in new], np.int64)
        parts = [*rows.items(), *(("keys", array) for array in (sizes, *new))]
        self.write(parts if kept is None else [*parts, ("kept", kept)], state)

    def known(self) -> list[np.ndarray]:
        """The committed values of the 26 vocabularies."""
        pieces: list[list[np.ndarray]] = [[np.empty(0, np.uint64)] for _ in CATEGORICAL]
        path = self.staging.path("keys")
        if path.exists():
            with open(path, "rb") as file:
                while len(sizes := np.fromfile(file, np.int64, len(CATEGORICAL))):
                    for column, size in zip(pieces, sizes.tolist(), strict=True):
                        column.append(np.fromfile(file, np.uint64, size))
        return [np.concatenate(column) for column in pieces]

    def kept(self, first: int, last: int) -> int:
        """Number of the lines `first … last - 1` that subsampling kept."""
        path, step = self.staging.path("kept"), 2**24
        parts = (np.fromfile(path, np.uint8, min(step, last - at), offset=at) for at in range(first, last, step))
        return sum(int(part.sum()) for part in parts)

    def rows(self, first: int, last: int) -> Rows:
        """Committed rows `first … last - 1`."""
        return {name: self.read(name, first, last) for name in SPECS}
