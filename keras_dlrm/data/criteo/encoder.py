"""Ids of Criteo's 26 categorical columns: vocabularies of a log that is read in order."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np

from keras_dlrm.data.criteo.reader import Block
from keras_dlrm.data.kernels.compiled import compiled
from keras_dlrm.data.kernels.first_appearance import FirstAppearance
from keras_dlrm.schema.criteo import CATEGORICAL


class Encoder:
    """Ids by first appearance for the 26 columns, of categories modulo `modulo`; `workers` threads of the executor work."""

    def __init__(self, executor: Executor, workers: int, modulo: int | None = None) -> None:
        self.modulo = modulo
        self.columns = [FirstAppearance() for _ in CATEGORICAL]
        self._executor = executor
        self.workers = workers

    def encode(self, block: Block) -> tuple[np.ndarray, list[np.ndarray]]:
        """Ids of a block's rows, int32 (n, 26), and for each column the uint64 values that were not there before."""
        before = [len(column) for column in self.columns]
        by_column = np.empty((len(CATEGORICAL), len(block)), np.int32)

        def number(j: int) -> None:
            keys = block.keys[j]
            if self.modulo is not None:
                keys = keys % np.uint64(self.modulo)
            self.columns[j].encode(keys, by_column[j])

        # The longest first: the threads end together.
        list(self._executor.map(number, sorted(range(len(CATEGORICAL)), key=lambda j: -before[j])))
        ids = np.empty((len(block), len(CATEGORICAL)), np.int32)
        self.over_rows(len(block), lambda a, b: turn(by_column[:, a:b], ids[a:b]))
        return ids, [column.values[n:] for column, n in zip(self.columns, before, strict=True)]

    def over_rows(self, n: int, function: Callable[[int, int], object]) -> None:
        """`function(first, last)` for all n rows, in parts that are worked on at once."""
        cuts = np.linspace(0, n, self.workers + 1).astype(int).tolist()
        list(self._executor.map(function, cuts[:-1], cuts[1:]))

    def restore(self, values: Sequence[np.ndarray]) -> None:
        """Begin with vocabularies that are known: 26 arrays of uint64."""
        self.columns = list(self._executor.map(FirstAppearance, values))


@compiled
def turn(columns, rows):  # type: ignore[no-untyped-def]
    """Copies (c, n) to (n, c)."""
    for start in range(0, rows.shape[0], 256):
        for j in range(columns.shape[0]):
            for i in range(start, min(start + 256, rows.shape[0])):
                rows[i, j] = columns[j, i]
