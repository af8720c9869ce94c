"""Rows to be scored: packed batches, and columns kept beside the predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from keras_dlrm.data.packed.split import Split
from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.preprocessor.unseen import Tally
from keras_dlrm.data.tables.block import Block, TableFile
from keras_dlrm.data.tables.columns import Columns

Types = dict[str, Any]


class Part(NamedTuple):
    """n rows.

    Args:
        batch: Their packed batch.
        beside: What is kept beside their predictions, n rows.
    """

    batch: dict[str, np.ndarray]
    beside: pl.DataFrame


def split_rows(split: Split, size: int, unseen: Tally) -> Iterator[Part]:
    """The rows of a packed split, with their number and label; unseen values are added up."""
    first = 0
    for batch, label, *_ in split.batches(size):
        unseen.add_packed(split.schema, batch.get("sparse"))
        numbers = pl.Series("row", np.arange(first, first + len(label), dtype=np.int64))
        yield Part(batch, pl.DataFrame([numbers, pl.Series(split.schema.label, label)]))
        first += len(label)


class FileRows:
    """The rows of files, through a preprocessor.

    Args:
        files: The files.
        columns: Works off their columns; it must know all vocabularies and statistics.
        ids: Columns that are kept beside the predictions.
        bad: What to do with rows that cannot be used.

    Attributes:
        types: Polars types of the ids.
        seen: Rows read so far, those that were left out included.

    Raises:
        ValueError: the files have an id column in different types.
    """

    def __init__(self, files: Sequence[TableFile], columns: Columns, ids: Sequence[str], bad: BadRows) -> None:
        self._files, self._columns, self._ids, self._bad = files, columns, list(ids), bad
        self.names = list(dict.fromkeys([*columns.names, *ids]))
        self.types: Types = {}
        self.seen = 0
        first: dict[str, Path] = {}
        types = [(file, *file.types(self._ids)) for file in files if self._ids]
        # What a file without rows says of its columns counts only where no other file says anything.
        for file, kinds, rows in sorted(types, key=lambda entry: not entry[2]):
            for name, kind in kinds.items():
                if self.types.get(name, pl.Null) == pl.Null:
                    self.types[name], first[name] = kind, file.path
                elif rows and kind not in (self.types[name], pl.Null):
                    raise ValueError(
                        f"{file.path}: id column {name!r} is {kind}, in {first[name]} it is {self.types[name]}; make the files "
                        "agree, or score them apart."
                    )

    def parts(self, executor: Executor, progress: Callable[[int, int | None], None]) -> Iterator[Part]:
        """The rows that can be used, in the order of the files.

        Args:
            executor: Its threads work on the columns.
            progress: Called with the rows read so far and an estimate of all rows.

        Raises:
            ValueError: a row cannot be used, as `bad` has it; a file that cannot be read, or changed meanwhile.
        """
        sizes = [file.size() for file in self._files]
        for k, file in enumerate(self._files):
            was, rows = file.fingerprint(self.names), 0
            for block in file.blocks(self.names):
                for name in self._ids:
                    block.check_single(name)
                packed = self._columns.work(block, executor)
                good = np.arange(len(block))
                if block.faults:
                    self._bad.add(*block.faults.first())
                    good = np.flatnonzero(~block.faults.bad)
                batch = {"dense": packed.dense, "sparse": packed.sparse}
                rows += len(block)
                self.seen += len(block)
                inputs = {name: batch[name] for name in self._columns.schema.input_names}
                yield Part(inputs, _ids(block, self.types, good))
                share = (sum(sizes[:k]) + sizes[k] * block.share) / sum(sizes)
                progress(self.seen, max(self.seen, round(self.seen / share)) if share else None)
            if file.fingerprint(self.names) != was or file.rows() not in (None, rows):
                raise ValueError(f"{file.path}: changed while it was read; run again when it is complete.")


def _ids(block: Block, types: Types, good: np.ndarray) -> pl.DataFrame:
    """The id columns of the good rows."""
    return pl.DataFrame([block.series(name, good).cast(kind).alias(name) for name, kind in types.items()])
