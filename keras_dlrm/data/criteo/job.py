"""The work of `criteo.preprocess`, in steps that a stopped job can go on from: read, write, place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.criteo import reader, splits
from keras_dlrm.data.criteo.dialect import Dialect
from keras_dlrm.data.criteo.encoder import Encoder
from keras_dlrm.data.criteo.stage import SPECS, Stage
from keras_dlrm.data.jobs.full_disk import full_disk
from keras_dlrm.data.jobs.staging import Staging, fingerprint, staging_directory
from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.packed.packed import ClickLog
from keras_dlrm.data.packed.packed import open as open_log
from keras_dlrm.data.packed.writer import PackedWriter, check_output, place_log
from keras_dlrm.data.preprocessor.bad_rows import BadRows

# Staged files of another version are not gone on from.
VERSION = 1
Progress = Callable[[int, int | None, str], None]


def run(
    paths: list[Path],
    output: Path,
    rules: Dialect,
    arguments: dict[str, Any],
    bad: BadRows,
    workers: int,
    overwrite: bool,
    progress: Progress | None,
) -> ClickLog:
    """Preprocess, or go on with it. See `criteo.preprocess`, which has checked the arguments."""
    job = {"program": "criteo", "version": VERSION, **arguments, "inputs": [fingerprint(path) for path in paths]}
    digest = hashlib.sha256(json.dumps(job).encode()).hexdigest()
    stopped = staging_directory(output).exists()
    if not stopped:
        check_output(output, overwrite)
    with full_disk(output), Staging(output, job) as staging:
        if stopped and _is_of(output, digest):
            # It was killed after its last step, while it cleaned up.
            bad.restore(open_log(output, verify=False).manifest["bad_rows"])
        else:
            check_output(output, overwrite)
            with ThreadPoolExecutor(workers) as executor, Stage(staging, rules.staged) as stage:
                encoder = Encoder(executor, workers, rules.modulo)
                work = _Job(paths, rules, arguments, bad, staging, stage, encoder, progress)
                work.read(executor, workers)
                for path, was in zip(paths, job["inputs"], strict=True):
                    if fingerprint(path) != was:
                        raise ValueError(f"{path}: changed while it was read; run again when it is complete.")
                work.write()
                work.place(output, digest, overwrite)
        staging.remove()
    return open_log(output, verify=False)


class _Job:
    """One run over one log. `staging.state` says how far it is: its `"step"` and what that needs."""

    def __init__(
        self,
        paths: list[Path],
        rules: Dialect,
        arguments: dict[str, Any],
        bad: BadRows,
        staging: Staging,
        stage: Stage,
        encoder: Encoder,
        progress: Progress | None,
    ) -> None:
        self.paths, self.rules, self.arguments, self.bad = paths, rules, arguments, bad
        self.staging, self.stage, self.encoder = staging, stage, encoder
        # Whether the staged rows are the training split as soon as the last day is cut off.
        self._in_place = rules.final and arguments["shuffle"] == "none"
        self.ranges: dict[str, tuple[int, int]] = {}
        self.progress = progress or (lambda done, total, step: None)
        self.random = np.random.RandomState(arguments["seed"])
        # Of each file: rows that were kept, lines that could be used, lines, and the smallest count.
        self.files = [{"rows": 0, "used": 0, "lines": 0, "offset": 0, "minimum": 0, "done": False} for _ in paths]
        if staging.state is not None:
            self.files = staging.state["files"]
            _set_state(self.random, staging.state["random"])
            bad.restore(staging.state["bad"])
            encoder.restore(stage.known())

    def state(self, step: str) -> dict[str, Any]:
        """What a commit keeps."""
        return {
            "step": step,
            "files": [dict(file) for file in self.files],
            "random": _state(self.random),
            "bad": self.bad.state(),
        }

    # -- step 1: lines → staged rows ---------------------------------------------------------------------------------

    def read(self, executor: ThreadPoolExecutor, workers: int) -> None:
        """Parse, number and stage all lines that are not staged yet."""
        if self.staging.state is not None and self.staging.state["step"] != "read":
            return
        sizes = [path.stat().st_size for path in self.paths]
        for k, (path, file) in enumerate(zip(self.paths, self.files, strict=True)):
            if file["done"]:
                continue
            for block in reader.read(path, executor, workers, self.bad, file["offset"], file["lines"]):
                self._add(file, block)
                share = (sum(sizes[:k]) + sizes[k] * block.share) / max(sum(sizes), 1)
                done = sum(f["lines"] for f in self.files)
                self.progress(done, max(done, round(done / share)) if share else None, "read")
            file["done"] = True
        if not sum(file["rows"] for file in self.files):
            raise ValueError(
                "criteo: no rows are left; the inputs are empty, or every row was skipped or dropped."
                + (f" {self.bad.skipped} were skipped: {self.bad.examples[0]}" if self.bad.skipped else "")
            )
        self.stage.commit(self.state("write"))

    def _add(self, file: dict[str, Any], block: reader.Block) -> None:
        used, kept = len(block), None
        if len(block):
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
        self.stage.append((block.label, dense, ids), new, kept, self.state("read"))

    # -- step 2: staged rows → the files of the splits ---------------------------------------------------------------

    def rows_per_day(self) -> list[int]:
        """Rows of each day, after skipping and sub-sampling."""
        if len(self.paths) > 1:
            return [file["rows"] for file in self.files]
        lines, days = self.files[0]["used"], self.arguments["days"]
        size, longer = divmod(lines, days)
        cuts = np.cumsum([0, *(size + (day < longer) for day in range(days))]).tolist()
        if not self.arguments["subsample"]:
            return [b - a for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        return [self.stage.kept(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]

    def write(self) -> None:
        """Make the files of the splits. Rows that are as they should be stay where they are."""
        days = self.rows_per_day()
        self.ranges = splits.ranges(days, self.rules.test_first)
        minima = [file["minimum"] for file in self.files]
        sizes = [len(column) for column in self.encoder.columns]
        self.rules.prepare(self.stage, [file["rows"] for file in self.files], minima, sizes)
        if self.staging.state["step"] == "place":
            return
        in_place = self._in_place
        total = sum(days)
        done = 0

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            self.progress(done, total, "write")

        if in_place:
            count(self.ranges["train"][1])
        for split, (first, last) in self.ranges.items():
            if split == "train" and in_place:
                continue
            files = splits.SplitFiles(self.stage, split)
            order = splits.order(days, self.arguments["shuffle"], self.random) if split == "train" else None
            if order is not None:
                for rows in splits.shuffled(self.stage, order, self.rules.late, count):
                    files.append(rows)
                continue
            for rows in splits.in_order(self.stage, first, last, self.rules.late):
                files.append(rows)
                count(len(rows[0]))
        if in_place:
            for name, spec in SPECS.items():
                self.staging.cut(name, layout.array_size(*spec, self.ranges["train"][1]))
        self.stage.commit(self.state("place"))

    # -- step 3: the processed directory -----------------------------------------------------------------------------

    def place(self, output: Path, digest: str, overwrite: bool) -> None:
        """Put the files, the schema and the preprocessor together, and give them their name."""
        values = [column.values for column in self.encoder.columns]
        # The hash tables are not needed any more.
        self.encoder.columns = []
        train = [f["minimum"] for f in self.files[: -1 if len(self.files) > 1 else None] if f["used"]]
        preprocessor = self.rules.preprocessor(values, train or [0])
        with PackedWriter(self.staging.complete, preprocessor.schema, preprocessor) as writer:
            for split, (first, last) in self.ranges.items():
                prefix = "" if split == "train" and self._in_place else f"{split}."
                files = {name: self.staging.path(prefix + name) for name in SPECS}
                splits.write_headers(files, last - first)
                writer.adopt(split, files, last - first)
            names = [str(path) for path in self.paths]
            writer.note("criteo", {**self.arguments, "inputs": names, "job": digest})
            writer.note("bad_rows", self.bad.state())
        place_log(self.staging.complete, output, overwrite)


def _is_of(output: Path, digest: str) -> bool:
    """Whether `output` is what this job makes."""
    try:
        return open_log(output, verify=False).manifest["criteo"]["job"] == digest
    except (OSError, ValueError, KeyError):
        return False


def _state(random: np.random.RandomState) -> list[Any]:
    state: Any = random.get_state()
    return [state[0], state[1].tolist(), *state[2:]]


def _set_state(random: np.random.RandomState, state: Sequence[Any]) -> None:
    random.set_state((state[0], np.array(state[1], np.uint32), *state[2:]))
