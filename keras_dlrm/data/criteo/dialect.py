"""Dialects of Criteo preprocessing: the rules of the PyTorch DLRM, or of TorchRec."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.criteo.stage import CriteoStage, Rows
from keras_dlrm.data.jobs.staging import chunks
from keras_dlrm.data.preprocessor import dense
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.vocabulary import HEX, Keys, Vocabulary, identified
from keras_dlrm.schema.criteo import CATEGORICAL, DENSE, LABEL
from keras_dlrm.schema.schema import Categorical, Dense, Schema
from keras_dlrm.support.arguments import integer


class Dialect:
    """The rules of the reference PyTorch DLRM, and base of others; `modulo` is `max_ind_range`. See `criteo.preprocess`.

    Attributes:
        modulo: Categories are taken modulo this before they are numbered, or `None`.
        staged: dtype of the dense values until the whole log was read.
        final: Whether rows need no more than they got while the log was read.
        test_first: Whether the first half of the last day is the test split.
        seed: The published one.
    """

    staged: type[np.generic] = np.float32
    final, test_first, seed = True, True, 123

    def __init__(self, modulo: int | None = None) -> None:
        # Categories have 64 bits: a larger number is no limit.
        self.modulo = None if modulo is None or modulo >= 2**64 else modulo

    def early(self, counts: np.ndarray) -> np.ndarray:
        """int32 (n, 13) → dense values to be staged."""
        return dense.log1p(counts)

    def prepare(self, stage: CriteoStage, rows_per_file: Sequence[int], minima: Sequence[int], sizes: Sequence[int]) -> None:
        """Learn what only the whole log says; `sizes` are the numbers of distinct values."""

    def late(self, rows: Rows, first: int) -> Rows:
        """Staged rows, the first of which has number `first`, → final ones."""
        return rows

    def preprocessor(self, values: list[np.ndarray], minima: Sequence[int]) -> Preprocessor:
        """A preprocessor that does the same to raw rows; `values` are the distinct values in their order."""
        tables = [(v, np.arange(len(v), dtype=np.int32), len(v), 0) for v in values]
        return _preprocessor([Dense(name, transform="log1p") for name in DENSE], {}, tables, self.modulo)


class Torchrec(Dialect):
    """The rules of TorchRec's scripts; without `table_sizes` tables have as many rows as there are ids."""

    staged: type[np.generic] = np.int32
    final, test_first, seed = False, False, 0

    def __init__(self, table_sizes: Sequence[int] | int | None, min_count: int) -> None:
        super().__init__()
        self.min_count = integer("criteo", "min_count", min_count)
        self.table_sizes: list[int] | None = None
        if table_sizes is not None:
            sizes = [table_sizes] * len(CATEGORICAL) if isinstance(table_sizes, int) else list(table_sizes)
            if len(sizes) != len(CATEGORICAL) or not all(type(s) is int and 1 <= s < 2**31 for s in sizes):
                raise ValueError(
                    f"criteo: table_sizes={table_sizes!r} must be a number of rows, or {len(CATEGORICAL)} of them, "
                    "each from 1 to 2147483647."
                )
            self.table_sizes = sizes

    def early(self, counts: np.ndarray) -> np.ndarray:
        return counts

    def prepare(self, stage: CriteoStage, rows_per_file: Sequence[int], minima: Sequence[int], sizes: Sequence[int]) -> None:
        total = sum(rows_per_file)
        self._ends, self._minima = np.cumsum(rows_per_file), np.array(minima, np.int64)
        counted = [np.zeros(size, np.int64) for size in sizes]
        if self.min_count > 1:
            for first, last in chunks(0, total):
                ids = stage.read("sparse", first, last)
                for j, counts in enumerate(counted):
                    # Not bincount: its result is as long as the vocabulary, in every chunk.
                    values, times = np.unique(ids[:, j], return_counts=True)
                    counts[values] += times
        # Of each column: which values have an id of their own, the ids of all, and the rows of the table.
        self._tables: list[tuple[np.ndarray, np.ndarray, int]] = []
        for j, counts in enumerate(counted):
            known = counts >= self.min_count if self.min_count > 1 else np.ones(len(counts), bool)
            size = int(known.sum()) + 2 if self.table_sizes is None else self.table_sizes[j]
            ids = np.where(known, np.cumsum(known) + 1, 1) % size
            self._tables.append((known, ids.astype(np.int32), size))

    def late(self, rows: Rows, first: int) -> Rows:
        label, counts, numbers = rows.values()
        file = np.searchsorted(self._ends, np.arange(first, first + len(label)), side="right")
        above = (counts.astype(np.int64) - (self._minima[file] - 2)[:, None]).astype(np.float32)
        ids = np.stack([mapped[numbers[:, j]] for j, (_, mapped, _) in enumerate(self._tables)], axis=1)
        return {"label": label, "dense": np.log(above, out=above), "sparse": ids}

    def preprocessor(self, values: list[np.ndarray], minima: Sequence[int]) -> Preprocessor:
        state = {"minimum": float(min(minima))}
        plain = Dense("any", transform="log_above_minimum")
        missing = float(dense.apply(plain, state, np.zeros(1))[0])
        columns = [Dense(name, transform="log_above_minimum", missing=missing) for name in DENSE]
        tables = [
            (v[known], ids[known], size, 1 % size) for v, (known, ids, size) in zip(values, self._tables, strict=True)
        ]
        states = {name: dict(state) for name in DENSE}
        return _preprocessor(columns, states, tables, None, self.min_count, self.table_sizes is not None)


def _preprocessor(
    columns: list[Dense],
    state: dict[str, dict[str, Any]],
    tables: list[tuple[np.ndarray, np.ndarray, int, int]],
    modulo: int | None,
    min_count: int = 1,
    capped: bool = False,
) -> Preprocessor:
    categorical, vocabularies = [], {}
    for name, (values, ids, size, oov) in zip(CATEGORICAL, tables, strict=True):
        categorical.append(Categorical(name, size, oov=oov, min_count=min_count, max_vocabulary=size if capped else None))
        vocabularies[name] = Vocabulary(pl.Series("key", values), ids, size, oov, Keys(HEX, modulo))
    schema = identified(Schema(columns, categorical, label=LABEL), state, vocabularies)
    return Preprocessor(schema, state, vocabularies)
