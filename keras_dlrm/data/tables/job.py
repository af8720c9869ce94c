"""The job of `tables.preprocess`, and the rows and texts that it stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
from keras_dlrm.data.tables.parts import RANDOM, Parts, by_keys, check_kinds, in_file_order, random_keys, targets
from keras_dlrm.data.tables.table_file import TableFile
from keras_dlrm.files.read_ahead import one_ahead
from keras_dlrm.schema import crosses
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.vectors import semantic


class TableJob(Job):
    """One run over some tables, given with their splits; `split` has fractions that rows are cut by. See `tables.preprocess`.

    Rows are cut in the order of the files, or of a column of times, `split_by`, or at random, by a `seed`.
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
        split_by: str | None,
        seed: int,
        bad: BadRows,
        progress: Progress | None,
    ) -> None:
        super().__init__([file.path for _, file in files], [file.size() for _, file in files], bad, progress)
        self.splits = [name for name, _ in files]
        self.files = [file for _, file in files]
        self.schema, self.given, self.grow = schema, given, grow
        self.csv, self.split = csv, None if split is None else dict(split)
        self.split_by, self.seed = split_by, seed
        time = None if split_by == RANDOM else split_by
        if given is None:
            self.columns = Columns(schema, None, {}, time=time)
        elif grow:
            again = [c.name for c in schema.categorical if c.table_name in given.vocabularies]
            schema = schema.replace_categorical(**dict.fromkeys(again, {"vocabulary_size": None}))
            self.columns = Columns(schema, given.dense_state, {}, time=time)
        else:
            self.columns = Columns(schema, given.dense_state, given.vocabularies, time=time)
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
        job: dict[str, Any] = {"split": self.split, "rules": rules, "inputs": fingerprints, "splits": self.splits}
        if self.split_by is not None:
            job["split_by"] = [self.split_by, self.seed if self.split_by == RANDOM else None]
        return job if self.csv is None else {**job, "csv": self.csv.to_dict()}

    def open_stage(self, executor: ThreadPoolExecutor, workers: int) -> TableStage:
        columns = self.columns
        return TableStage(self.staging, columns.schema, columns.late_width, columns.time is not None, columns.texts)

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

    def part_rows(self) -> dict[str, int]:
        return self._parts.rows

    def prepare(self) -> Specs:
        self._parts = self._cut()
        self._fitted = self._preprocessor().reading(self.csv)
        return layout.array_specs(self._fitted.schema)

    def _cut(self) -> Parts:
        """The parts that the staged rows belong to."""
        total = sum(self._rows)
        if self.split is None:
            rows: dict[str, int] = {}
            for name, count in zip(self.splits, self._rows, strict=True):
                rows[name] = rows.get(name, 0) + count
            return in_file_order(rows)
        if self.split_by is None:
            return in_file_order(targets(self.split, total))
        if self.split_by == RANDOM:
            return by_keys(self.split, random_keys(self.seed), total, "split_by='random'")
        keys, what = partial(self.stage.read, "when"), f"split_by: column {self.split_by!r}"
        check_kinds(keys, total, what)
        return by_keys(self.split, keys, total, what)

    def _preprocessor(self) -> Preprocessor:
        """The preprocessor, of the staged training rows."""
        if self.given is not None and not self.grow:
            return self.given
        unfitted = bool(self.columns.open or self.columns.late_width)
        if self.given is None and unfitted and not self._parts.rows["train"]:
            raise ValueError(f"{self.files[0].path}: the training part has no rows, so no vocabulary can be fitted.")
        parts = self._training_rows() if unfitted else iter(())
        if self.given is None:
            return fitted(self.schema, self.columns, parts)
        return grown(self.given, self.columns, parts)

    def _training_rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first, last in chunks(0, sum(self._rows)):
            rows = self._parts.of(first, last)["train"]
            if len(rows):
                yield self._chosen("late", first, last, rows), self._chosen("sparse", first, last, rows)

    def _chosen(self, name: str, first: int, last: int, chosen: np.ndarray) -> np.ndarray:
        """Some of the staged rows `first … last - 1` of an array."""
        values = self.stage.read(name, first, last)
        return values if len(chosen) == len(values) else values[chosen]

    def pieces(self, written: int) -> Iterator[tuple[str, dict[str, np.ndarray], int | None]]:
        final = {}
        for table, ids in self.columns.texts.items():
            # The last entry is where -1 leads.
            encoded = self._fitted.vocabularies[table].encode(ids.since(0).series(), f"table {table!r}")
            final[table] = np.append(encoded, np.int32(PADDING))
        self.columns.texts.clear()
        self._counted = written
        done = dict.fromkeys(self._parts.rows, 0)
        # From the last commit on, in the same chunks: it is made after one.
        for first, last in chunks(0, sum(self._rows)):
            parts = {name: rows for name, rows in self._parts.of(first, last).items() if len(rows)}
            for k, (split, rows) in enumerate(parts.items()) if last > written else ():
                numbers = np.arange(done[split], done[split] + len(rows))
                yield split, self._final(first, last, rows, final, split, numbers), last if k == len(parts) - 1 else None
                self.count(len(rows))
            for split, rows in parts.items():
                done[split] += len(rows)

    def _final(
        self, first: int, last: int, chosen: np.ndarray, ids: Mapping[str, np.ndarray], split: str, numbers: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Staged rows of a split in their final form; `ids` are those of the numbered texts by table."""
        rows = {name: self._chosen(name, first, last, chosen) for name in self.stage.specs if name != "when"}
        late = rows.pop("late")
        for k, j in enumerate(self.columns.late):
            column = self._fitted.schema.dense[j]
            out = rows["dense"][:, j] = dense.apply(column, self._fitted.dense_state[column.name], late[:, k])
            refused = Refused(f"the {split} part", "row", numbers)
            refused.add(column.name, (~np.isfinite(out), late[:, k].item, dense.OUTSIDE))
        for table, members in self.columns.open.items():
            for member, offset in members:
                place = slice(offset, offset + member.hotness)
                rows["sparse"][:, place] = ids[table][rows["sparse"][:, place]]
        for codes in semantic(self._fitted.schema.categorical):
            if codes.of in self.columns.late_vectors:
                content = late[:, self.columns.late_vectors[str(codes.of)]]
                self.columns.encode(codes, content, self._fitted.dense_state, rows["sparse"])
        crosses.fill(self._fitted.schema, rows["sparse"])
        return rows

    def preprocessor(self) -> Preprocessor:
        return self._fitted

    def note(self) -> dict[str, Any]:
        inputs = [[name, str(file.path)] for name, file in zip(self.splits, self.files, strict=True)]
        by = {} if self.split_by is None else {"split_by": self.split_by}
        return {"split": self.split, **by, "inputs": inputs}


class TableStage(Stage):
    """Staged rows, and the numbered texts by table, which get the committed ones.

    `late` numbers of a row wait for statistics; `timed` rows have keys that put them in order.
    """

    def __init__(self, staging: Staging, schema: Schema, late: int, timed: bool, texts: Mapping[str, TextIds]) -> None:
        specs: dict[str, tuple[Any, int | None]] = {"sparse": (np.int32, 0), **layout.array_specs(schema)}
        super().__init__(staging, {**specs, "late": (np.float64, late), **({"when": (np.uint64, None)} if timed else {})})
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
