"""Rows of files as packed batches, through a fitted preprocessor, with some raw columns alongside them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl

from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.preprocessor.columns import Columns
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.tables.files import Inputs, check_columns, table_files
from keras_dlrm.data.tables.table_file import TableFile
from keras_dlrm.schema.time_parts import sources


class Part(NamedTuple):
    """A packed batch of n rows, and n rows to keep alongside their predictions."""

    batch: dict[str, np.ndarray]
    beside: pl.DataFrame


class FileRows:
    """The rows of files, through a preprocessor whose `columns` know all vocabularies and statistics.

    Attributes:
        files, columns: As given.
        types: Polars types of the ids, which are kept alongside the predictions; `ValueError` where files have different ones.
        seen: Rows read so far, those that were left out included.
    """

    def __init__(self, files: Sequence[TableFile], columns: Columns, ids: Sequence[str], bad: BadRows) -> None:
        self.files, self.columns, self._ids, self._bad = files, columns, list(ids), bad
        self.names = list(dict.fromkeys([*columns.names, *ids]))
        self.types: dict[str, Any] = {}
        self.seen = 0
        first: dict[str, Path] = {}
        types = [(file, *file.types(self._ids)) for file in files if self._ids]
        # What a file without rows says of its columns counts only where no other file says anything.
        for file, kinds, rows in sorted(types, key=lambda entry: not entry[2]):
            for name, kind in kinds.items():
                if self.types.get(name, pl.Null) == pl.Null:
                    self.types[name], first[name] = kind, file.path
                elif rows and kind not in (self.types[name], pl.Null):
                    fix = "make the files agree, or score them apart."
                    raise ValueError(f"{file.path}: id column {name!r} is {kind}, in {first[name]} it is {self.types[name]}; {fix}")

    @classmethod
    def of(
        cls, preprocessor: Preprocessor, inputs: Inputs, ids: Sequence[str] = (), csv: CsvDialect | None = None,
        bad: BadRows | None = None,
    ) -> Self:  # fmt: skip
        """The rows of some inputs, through a preprocessor; text files are as those of its log, unless `csv` says otherwise."""
        work = Columns(preprocessor.schema, preprocessor.dense_state, preprocessor.vocabularies, labeled=False)
        names = [*work.names, *ids]
        files = table_files(inputs, names, preprocessor.csv if csv is None else csv, sources(preprocessor.schema))
        check_columns(files, names)
        return cls(files, work, ids, bad or BadRows())

    def parts(self, executor: Executor, progress: Callable[[int, int | None], None]) -> Iterator[Part]:
        """Rows that can be used, in order; `ValueError` for one that cannot. Progress is told the rows so far, of about all."""
        sizes = [file.size() for file in self.files]
        for k, file in enumerate(self.files):
            was, rows = file.fingerprint(self.names), 0
            for block in file.blocks(self.names):
                for name in self._ids:
                    block.check_single(name)
                packed = self.columns.work(block, executor)
                good = np.arange(len(block))
                if block.faults:
                    self._bad.add(*block.faults.first())
                    good = np.flatnonzero(~block.faults.bad)
                rows += len(block)
                self.seen += len(block)
                inputs = {name: getattr(packed, name) for name in self.columns.schema.input_names}
                ids = [block.series(name, good).cast(kind).alias(name) for name, kind in self.types.items()]
                yield Part(inputs, pl.DataFrame(ids))
                share = (sum(sizes[:k]) + sizes[k] * block.share) / sum(sizes)
                progress(self.seen, max(self.seen, round(self.seen / share)) if share else None)
            if file.fingerprint(self.names) != was or file.rows() not in (None, rows):
                raise ValueError(f"{file.path}: changed while it was read; run again when it is complete.")
