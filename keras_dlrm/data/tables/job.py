"""The work of `tables.preprocess`, in steps that a stopped job can go on from: read, write, place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_dlrm.data.jobs.full_disk import full_disk
from keras_dlrm.data.jobs.staging import Staging, staging_directory
from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.packed.packed import ClickLog
from keras_dlrm.data.packed.packed import open as open_log
from keras_dlrm.data.packed.writer import PackedWriter, check_output, place_log
from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.tables.block import TableFile
from keras_dlrm.data.tables.columns import Columns
from keras_dlrm.data.tables.fit import Rules
from keras_dlrm.data.tables.stage import Stage, as_bytes, chunks
from keras_dlrm.files.read_ahead import one_ahead

# Staged files of another version are not gone on from.
VERSION = 2
# Bytes of the output between two commits of the writing step.
COMMIT_BYTES = 2**28
Progress = Callable[[int, int | None, str], None]


def run(
    files: list[tuple[str, TableFile]],
    output: Path,
    rules: Rules,
    csv: CsvDialect | None,
    split: Mapping[str, float] | None,
    bad: BadRows,
    workers: int,
    overwrite: bool,
    progress: Progress | None,
) -> ClickLog:
    """Preprocess, or go on with it. See `tables.preprocess`, which has checked the arguments."""
    columns = rules.columns()
    inputs = [file.fingerprint(columns.names) for _, file in files]
    job = {
        "program": "tables",
        "version": VERSION,
        "split": None if split is None else dict(split),
        "rules": rules.identity(),
        "inputs": inputs,
        "splits": [name for name, _ in files],
        **({} if csv is None else {"csv": csv.to_dict()}),
    }
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
            with (
                ThreadPoolExecutor(workers) as executor,
                Stage(staging, columns.schema, len(columns.late), columns.texts) as stage,
            ):
                work = _Job(files, csv, split, rules, columns, bad, stage, progress)
                work.read(executor)
                for (_, file), was in zip(files, inputs, strict=True):
                    if file.fingerprint(columns.names) != was:
                        raise ValueError(f"{file.path}: changed while it was read; run again when it is complete.")
                work.write()
                work.place(output, digest, overwrite)
        staging.remove()
    return open_log(output, verify=False)


class _Job:
    """One run over some tables. `staging.state` says how far it is: its `"step"` and what that needs."""

    def __init__(
        self,
        files: list[tuple[str, TableFile]],
        csv: CsvDialect | None,
        split: Mapping[str, float] | None,
        rules: Rules,
        columns: Columns,
        bad: BadRows,
        stage: Stage,
        progress: Progress | None,
    ) -> None:
        self.csv = csv
        self.files, self.split, self.rules, self.columns = files, split, rules, columns
        self.bad, self.stage, self.staging = bad, stage, stage.staging
        self.progress = progress or (lambda done, total, step: None)
        self.rows = [0] * len(files)
        self.current = 0
        self.position: dict[str, int] = {}
        self.seen = 0
        self.preprocessor: Preprocessor | None = None
        if self.staging.state is not None:
            state = self.staging.state
            self.rows, self.current, self.position, self.seen = (
                state[k] for k in ("rows", "current", "position", "seen")
            )
            bad.restore(state["bad"])

    def state(self, step: str, written: int = 0) -> dict[str, Any]:
        """What a commit keeps."""
        return {
            "step": step,
            "rows": list(self.rows),
            "current": self.current,
            "position": self.position,
            "seen": self.seen,
            "written": written,
            "bad": self.bad.state(),
        }

    # -- step 1: files → staged rows ---------------------------------------------------------------------------------

    def read(self, executor: Executor) -> None:
        """Number and stage all rows that are not staged yet."""
        if self.staging.state is not None and self.staging.state["step"] != "read":
            return
        sizes = [file.size() for _, file in self.files]
        while self.current < len(self.files):
            file = self.files[self.current][1]
            for block in one_ahead(file.blocks(self.columns.names, self.position or None)):
                rows = self.columns.work(block, executor)
                if block.faults:
                    self.bad.add(*block.faults.first())
                self.rows[self.current] += len(rows)
                self.seen += len(block)
                self.position = block.place
                self.stage.append(rows, self.state("read"))
                share = (sum(sizes[: self.current]) + sizes[self.current] * block.share) / sum(sizes)
                self.progress(self.seen, max(self.seen, round(self.seen / share)) if share else None, "read")
            self.current += 1
            self.position = {}
        if not sum(self.rows):
            if self.bad.skipped:
                raise ValueError(f"tables: no rows are left, {self.bad.skipped} were skipped: {self.bad.examples[0]}")
            raise ValueError(f"{self.files[0][1].path}: there are no rows in it, nor in any other input; give files with rows.")
        self.stage.commit(self.state("write"))

    def ranges(self) -> dict[str, tuple[int, int]]:
        """First and last row of each split."""
        total = sum(self.rows)
        found: dict[str, tuple[int, int]] = {}
        if self.split is None:
            start = 0
            for (name, _), rows in zip(self.files, self.rows, strict=True):
                found[name] = (found.get(name, (start, start))[0], start + rows)
                start += rows
            return found
        share, start = 0.0, 0
        for name in [s for s in layout.SPLITS if s in self.split]:
            share += self.split[name]
            stop = min(round(share * total), total)
            found[name] = (start, stop)
            start = stop
        return found

    # -- step 2: staged rows → the files of the splits ---------------------------------------------------------------

    def write(self) -> None:
        """Fit what is to be fitted, and make the files of the splits."""
        ranges = self.ranges()
        source = str(self.files[0][1].path)
        self.preprocessor = self.rules.fit(self.columns, self.stage, *ranges["train"], source).reading(self.csv)
        if self.staging.state["step"] == "place":
            return
        late = self.rules.late(self.columns, self.preprocessor)
        total, written = sum(self.rows), self.staging.state["written"]
        specs = layout.array_specs(self.preprocessor.schema)
        if not self.staging.state.get("headers"):
            for split in ranges:
                for name, (dtype, width) in specs.items():
                    self.staging.append(f"{split}.{name}", layout.array_header(dtype, width, 0))
            self.staging.commit({**self.state("write", written), "headers": True})
        uncommitted = 0
        for split, (first, last) in ranges.items():
            # From the last commit on, in the same chunks: it is made after one.
            for start, stop in chunks(first, last):
                if stop <= written:
                    continue
                batch = late(self.stage, start, stop, f"the {split} part, row {start - first}")
                for name, (dtype, _) in specs.items():
                    data = as_bytes(batch[name].astype(dtype, copy=False))
                    self.staging.append(f"{split}.{name}", data)
                    uncommitted += len(data)
                written = stop
                if uncommitted >= COMMIT_BYTES:
                    self.staging.commit({**self.state("write", written), "headers": True})
                    uncommitted = 0
                self.progress(written, total, "write")
        self.staging.commit(self.state("place"))

    # -- step 3: the processed directory -----------------------------------------------------------------------------

    def place(self, output: Path, digest: str, overwrite: bool) -> None:
        """Put the files, the schema and the preprocessor together, and give them their name."""
        if self.preprocessor is None:
            raise RuntimeError("tables: place comes after write.")
        specs = layout.array_specs(self.preprocessor.schema)
        with PackedWriter(self.staging.complete, self.preprocessor.schema, self.preprocessor) as writer:
            for split, (first, last) in self.ranges().items():
                paths = {name: self.staging.path(f"{split}.{name}") for name in specs}
                for name, (dtype, width) in specs.items():
                    with open(paths[name], "r+b") as file:
                        file.write(layout.array_header(dtype, width, last - first))
                writer.adopt(split, paths, last - first)
            names = [[name, str(file.path)] for name, file in self.files]
            writer.note("tables", {"split": self.split and dict(self.split), "inputs": names, "job": digest})
            writer.note("bad_rows", self.bad.state())
        place_log(self.staging.complete, output, overwrite)


def _is_of(output: Path, digest: str) -> bool:
    """Whether `output` is what this job makes."""
    try:
        return open_log(output, verify=False).manifest["tables"]["job"] == digest
    except (OSError, ValueError, KeyError):
        return False
