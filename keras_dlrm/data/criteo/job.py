"""The job of `criteo.preprocess`."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.criteo import reader
from keras_dlrm.data.criteo.dialect import Dialect
from keras_dlrm.data.criteo.encoder import Encoder
from keras_dlrm.data.criteo.stage import SPECS, CriteoStage, Rows, ranges, shuffled, shuffled_order
from keras_dlrm.data.jobs.job import Job, Progress, Specs
from keras_dlrm.data.jobs.staging import chunks, fingerprint
from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor


class CriteoJob(Job):
    """One run over a Criteo log; `arguments`, besides the rules, decide the output. See `criteo.preprocess`."""

    program = "criteo"
    version = 1
    stage: CriteoStage

    def __init__(
        self, paths: list[Path], rules: Dialect, arguments: dict[str, Any], bad: BadRows, progress: Progress | None
    ) -> None:
        super().__init__(paths, [path.stat().st_size for path in paths], bad, progress)
        self.paths, self.rules, self.arguments = paths, rules, arguments
        self.random = np.random.RandomState(arguments["seed"])
        # Of each file: rows that were kept, lines that could be used, lines, and the smallest count.
        self.files = [{"rows": 0, "used": 0, "lines": 0, "offset": 0, "minimum": 0, "done": False} for _ in paths]

    def fingerprints(self) -> list[dict[str, Any]]:
        return [fingerprint(path) for path in self.paths]

    def identity(self, fingerprints: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.arguments, "inputs": fingerprints}

    def open_stage(self, executor: ThreadPoolExecutor, workers: int) -> CriteoStage:
        stage = CriteoStage(self.staging, self.rules.staged)
        self.encoder = Encoder(executor, workers, self.rules.modulo)
        if self.staging.state is not None:
            self.encoder.restore(stage.known())
        return stage

    def position(self) -> dict[str, Any]:
        random: Any = self.random.get_state()
        files = [dict(file) for file in self.files]
        return {"files": files, "random": [random[0], random[1].tolist(), *random[2:]]}

    def restore(self, state: dict[str, Any]) -> None:
        self.files = state["files"]
        kind, values, *rest = state["random"]
        self.random.set_state((kind, np.array(values, np.uint32), *rest))

    def rows(self) -> list[int]:
        return [file["rows"] for file in self.files]

    def read_blocks(self, executor: ThreadPoolExecutor) -> Iterator[tuple[int, float, int]]:
        workers = self.encoder.workers
        for number, (path, file) in enumerate(zip(self.paths, self.files, strict=True)):
            if not file["done"]:
                for block in reader.read(path, executor, workers, self.bad, file["offset"], file["lines"]):
                    self._add(file, block)
                    yield number, block.share, sum(file["lines"] for file in self.files)
                file["done"] = True

    def _add(self, file: dict[str, Any], block: reader.Block) -> None:
        used, kept = len(block), None
        if used:
            lowest = int(block.counts.min())
            file["minimum"] = min(file["minimum"], lowest) if file["used"] else lowest
        if self.arguments["subsample"]:
            chosen = (block.label != 0) | ~(self.random.uniform(size=used) < self.arguments["subsample"])
            block = block.take(np.flatnonzero(chosen))
            kept = chosen.astype(np.uint8) if len(self.paths) == 1 else None
        ids, new = self.encoder.encode(block)
        dense = np.empty(block.counts.shape, self.rules.staged)

        def fill(first: int, last: int) -> None:
            dense[first:last] = self.rules.early(block.counts[first:last])

        self.encoder.over_rows(len(block), fill)
        file["rows"] += len(block)
        file["used"] += used
        file["lines"], file["offset"] = block.lines, block.offset
        self.stage.append({"label": block.label, "dense": dense, "sparse": ids}, new, kept, self.state("read"))

    def _rows_per_day(self) -> list[int]:
        """Rows of each day, after skipping and subsampling."""
        if len(self.paths) > 1:
            return self.rows()
        size, longer = divmod(self.files[0]["used"], self.arguments["days"])
        cuts = np.cumsum([0, *(size + (day < longer) for day in range(self.arguments["days"]))]).tolist()
        rows = self.stage.kept if self.arguments["subsample"] else lambda first, last: last - first
        return [rows(first, last) for first, last in zip(cuts[:-1], cuts[1:], strict=True)]

    def ranges(self) -> dict[str, tuple[int, int]]:
        """First and last staged row of each split."""
        return ranges(self._days, self.rules.test_first)

    def part_rows(self) -> dict[str, int]:
        return {split: last - first for split, (first, last) in self.ranges().items()}

    @property
    def in_place(self) -> tuple[str, ...]:
        # Staged rows are the training split as soon as the last day is cut off.
        return ("train",) if self.rules.final and self.arguments["shuffle"] == "none" else ()

    def prepare(self) -> Specs:
        self._days = self._rows_per_day()
        minima = [file["minimum"] for file in self.files]
        self.rules.prepare(self.stage, self.rows(), minima, [len(column) for column in self.encoder.columns])
        return SPECS

    def pieces(self, written: int) -> Iterator[tuple[str, Rows, int | None]]:
        train_rows = self.ranges()["train"][1]
        for split, (first, last) in self.ranges().items():
            if split in self.in_place:
                self.count(last)
                continue
            order = shuffled_order(self._days, self.arguments["shuffle"], self.random) if split == "train" else None
            if order is not None:
                yield from ((split, rows, None) for rows in shuffled(self.stage, order, self.rules.late, self.count))
                continue
            for start, stop in chunks(first, last):
                yield split, self.rules.late(self.stage.rows(start, stop), start), None
                self.count(stop - start)
        if self.in_place:
            for name, spec in SPECS.items():
                self.staging.cut(name, layout.array_size(*spec, train_rows))

    def preprocessor(self) -> Preprocessor:
        values = [column.values for column in self.encoder.columns]
        # The hash tables are not needed any more.
        self.encoder.columns = []
        train = [f["minimum"] for f in self.files[: -1 if len(self.files) > 1 else None] if f["used"]]
        return self.rules.preprocessor(values, train or [0])

    def note(self) -> dict[str, Any]:
        return {**self.arguments, "inputs": [str(path) for path in self.paths]}
