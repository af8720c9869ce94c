"""The job of `tables.preprocess`, and the rows and texts that it stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_dlrm.data.jobs.job import Job, Progress, Specs
from keras_dlrm.data.jobs.staging import Stage, Staging, chunks
from keras_dlrm.data.kernels.first_appearance import TextIds, Texts
from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.preprocessor import dense
from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.preprocessor.block import Refused
from keras_dlrm.data.preprocessor.columns import Columns, Rows
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor, fitted, grown
from keras_dlrm.data.preprocessor.vocabulary import vocabulary_identity
from keras_dlrm.data.tables.table_file import TableFile
from keras_dlrm.files.read_ahead import one_ahead
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Schema


class TableJob(Job):
    """One run over some tables, given with their splits; `split` has fractions that rows are cut by. See `tables.preprocess`.

    It fits a preprocessor, takes the `given` one as it is, or lets its vocabularies `grow` by the training part.
    """

    program = "tables"
    version = 2
    stage: TableStage

    def __init__(
        self,
        files: list[tuple[str, TableFile]],
        schema: Schema,
        given: Preprocessor | None,
        grow: bool,
        csv: CsvDialect | None,
        split: Mapping[str, float] | None,
        bad: BadRows,
        progress: Progress | None,
    ) -> None:
        super().__init__([file.path for _, file in files], [file.size() for _, file in files], bad, progress)
        self.splits = [name for name, _ in files]
        self.files = [file for _, file in files]
        self.schema, self.given, self.grow = schema, given, grow
        self.csv, self.split = csv, None if split is None else dict(split)
        if given is None:
            self.columns = Columns(schema, None, {})
        elif grow:
            again = [c.name for c in schema.categorical if c.table_name in given.vocabularies]
            schema = schema.replace_categorical(**dict.fromkeys(again, {"vocabulary_size": None}))
            self.columns = Columns(schema, given.dense_state, {})
        else:
            self.columns = Columns(schema, given.dense_state, given.vocabularies)
        self._rows = [0] * len(files)
        self._current = 0
        self._resume_at: dict[str, int] = {}
        self._seen = 0

    def fingerprints(self) -> list[dict[str, Any]]:
        return [file.fingerprint(self.columns.names) for file in self.files]

    def identity(self, fingerprints: list[dict[str, Any]]) -> dict[str, Any]:
        rules: dict[str, Any] = {"schema": self.schema.to_dict()}
        if self.given is not None:
            vocabularies = {name: vocabulary_identity(v) for name, v in self.given.vocabularies.items()}
            rules |= {"dense": self.given.dense_state, "vocabularies": vocabularies, "grown": self.grow}
        job = {"split": self.split, "rules": rules, "inputs": fingerprints, "splits": self.splits}
        return job if self.csv is None else {**job, "csv": self.csv.to_dict()}

    def open_stage(self, executor: ThreadPoolExecutor, workers: int) -> TableStage:
        return TableStage(self.staging, self.columns.schema, len(self.columns.late), self.columns.texts)

    def position(self) -> dict[str, Any]:
        return {"rows": list(self._rows), "current": self._current, "position": self._resume_at, "seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        self._rows, self._current = state["rows"], state["current"]
        self._resume_at, self._seen = state["position"], state["seen"]

    def rows(self) -> list[int]:
        return self._rows

    def read_blocks(self, executor: ThreadPoolExecutor) -> Iterator[tuple[int, float, int]]:
        while self._current < len(self.files):
            for block in one_ahead(self.files[self._current].blocks(self.columns.names, self._resume_at or None)):
                rows = self.columns.work(block, executor)
                self.bad.add(*block.faults.first())
                self._rows[self._current] += len(rows)
                self._seen += len(block)
                self._resume_at = block.place
                self.stage.append(rows, self.state("read"))
                yield self._current, block.share, self._seen
            self._current += 1
            self._resume_at = {}

    def ranges(self) -> dict[str, tuple[int, int]]:
        total, start = sum(self._rows), 0
        ranges: dict[str, tuple[int, int]] = {}
        if self.split is None:
            for name, rows in zip(self.splits, self._rows, strict=True):
                ranges[name] = (ranges.get(name, (start, start))[0], start + rows)
                start += rows
            return ranges
        share = 0.0
        for name in [s for s in layout.SPLITS if s in self.split]:
            share += self.split[name]
            stop = min(round(share * total), total)
            ranges[name] = (start, stop)
            start = stop
        return ranges

    def prepare(self) -> Specs:
        self._fitted = self._preprocessor(*self.ranges()["train"]).reading(self.csv)
        return layout.array_specs(self._fitted.schema)

    def _preprocessor(self, first: int, last: int) -> Preprocessor:
        """The preprocessor, of the staged training rows `first … last - 1`."""
        if self.given is not None and not self.grow:
            return self.given
        unfitted = bool(self.columns.open or self.columns.late)
        if self.given is None and unfitted and first == last:
            raise ValueError(f"{self.files[0].path}: the training part has no rows, so no vocabulary can be fitted.")
        cuts, read = chunks(first, last) if unfitted else (), self.stage.read
        parts = ((read("late", *rows), read("sparse", *rows)) for rows in cuts)
        if self.given is None:
            return fitted(self.schema, self.columns, parts)
        return grown(self.given, self.columns, parts)

    def pieces(self, written: int) -> Iterator[tuple[str, dict[str, np.ndarray], int | None]]:
        final = {}
        for table, ids in self.columns.texts.items():
            # The last entry is where -1 leads.
            encoded = self._fitted.vocabularies[table].encode(ids.since(0).series(), f"table {table!r}")
            final[table] = np.append(encoded, np.int32(PADDING))
        self.columns.texts.clear()
        self._counted = written
        for split, (first, last) in self.ranges().items():
            # From the last commit on, in the same chunks: it is made after one.
            for start, stop in chunks(first, last):
                if stop > written:
                    yield split, self._final(start, stop, final, f"the {split} part, row {start - first}"), stop
                    self.count(stop - start)

    def _final(self, first: int, last: int, ids: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
        """Staged rows in their final form; `ids` are those of the numbered texts by table."""
        rows = {name: self.stage.read(name, first, last) for name in self.stage.specs}
        late = rows.pop("late")
        for k, j in enumerate(self.columns.late):
            column = self._fitted.schema.dense[j]
            out = rows["dense"][:, j] = dense.apply(column, self._fitted.dense_state[column.name], late[:, k])
            refused = Refused(where, "row", np.arange(last - first))
            refused.add(column.name, (~np.isfinite(out), late[:, k].item, dense.OUTSIDE))
        for table, members in self.columns.open.items():
            for member, offset in members:
                place = slice(offset, offset + member.hotness)
                rows["sparse"][:, place] = ids[table][rows["sparse"][:, place]]
        return rows

    def preprocessor(self) -> Preprocessor:
        return self._fitted

    def note(self) -> dict[str, Any]:
        inputs = [[name, str(file.path)] for name, file in zip(self.splits, self.files, strict=True)]
        return {"split": self.split, "inputs": inputs}


class TableStage(Stage):
    """Staged rows, and the numbered texts by table, which get the committed ones. `late` dense columns wait for statistics."""

    def __init__(self, staging: Staging, schema: Schema, late: int, texts: Mapping[str, TextIds]) -> None:
        specs: dict[str, tuple[Any, int | None]] = {"sparse": (np.int32, 0), **layout.array_specs(schema)}
        super().__init__(staging, {**specs, "late": (np.float64, late)})
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
