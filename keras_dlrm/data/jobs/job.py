"""The steps of a preprocessing job: read and stage the rows, write the splits, put the processed directory in place."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_dlrm.data.jobs.staging import Stage, Staging, as_bytes, staging_directory
from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.packed.packed import ClickLog
from keras_dlrm.data.packed.packed import open as open_log
from keras_dlrm.data.packed.writer import PackedWriter, check_output, place_log
from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.files.durable import full_disk

# Bytes of the output between two commits while it is written.
COMMIT_BYTES = 2**28
Progress = Callable[[int, int | None, str], None]
Specs = Mapping[str, tuple[np.dtype[Any], int | None]]


class Job(ABC):
    """A run over a log. After a stop, the same job resumes from its last commit and gives the same files, to the byte.

    The state of a commit is its `"step"` (`"read"`, `"write"` or `"place"`) and what the job needs to resume from there.

    Args:
        inputs: Names of the inputs, for errors.
        sizes: Size of each input relative to the others.
        bad: What to do with rows that cannot be used.
        progress: Called as `progress(rows_done, rows_total, step)`.
    """

    program: ClassVar[str]
    version: ClassVar[int]
    """Version of the staged files; those of another one are not used."""

    staging: Staging
    stage: Stage

    def __init__(
        self, inputs: Sequence[str | Path], sizes: Sequence[int], bad: BadRows, progress: Progress | None
    ) -> None:
        self.inputs, self.sizes, self.bad = inputs, sizes, bad
        self._progress = progress or (lambda done, total, step: None)
        self._counted = 0

    # -- what differs from one kind of log to another ----------------------------------------------------------------

    @abstractmethod
    def fingerprints(self) -> list[dict[str, Any]]:
        """JSON values that tell whether the inputs are still the same."""

    @abstractmethod
    def identity(self, fingerprints: list[dict[str, Any]]) -> dict[str, Any]:
        """JSON values that decide the output."""

    @abstractmethod
    def open_stage(self, executor: ThreadPoolExecutor, workers: int) -> Stage:
        """The staged rows; what was committed of them is taken up."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `position`."""

    @abstractmethod
    def position(self) -> dict[str, Any]:
        """JSON values that say how much was read."""

    @abstractmethod
    def read_blocks(self, executor: ThreadPoolExecutor) -> Iterator[tuple[int, float, int]]:
        """Stage all rows that are not staged yet, in blocks.

        Returns:
            Iterator of the input's number, the share of it that was read, and the rows read so far, bad ones included.
        """

    @abstractmethod
    def rows(self) -> list[int]:
        """Staged rows of each input."""

    @abstractmethod
    def part_rows(self) -> dict[str, int]:
        """Rows of each split; known when the job is prepared."""

    @abstractmethod
    def prepare(self) -> Specs:
        """Learn what only the whole log tells; the arrays of the output."""

    @abstractmethod
    def pieces(self, written: int) -> Iterator[tuple[str, Mapping[str, np.ndarray], int | None]]:
        """Final rows after the first `written`: split, arrays, and `written` after them, or `None`: no going on there."""

    @abstractmethod
    def preprocessor(self) -> Preprocessor:
        """The fitted preprocessor."""

    @abstractmethod
    def note(self) -> dict[str, Any]:
        """Values for the manifest, under the program's name."""

    @property
    def in_place(self) -> Collection[str]:
        """Splits whose staged files are the output's."""
        return ()

    # -- the steps ---------------------------------------------------------------------------------------------------

    def run(self, output: Path, workers: int, overwrite: bool, reuse: bool = False) -> ClickLog:
        """Do the work, or the rest of it.

        Args:
            output: Directory to write.
            workers: Threads.
            overwrite: Whether a processed directory there may be replaced.
            reuse: Whether a processed directory there that this job made is opened instead.
        """
        if reuse and overwrite:
            raise ValueError(f"{self.program}: reuse and overwrite are mutually exclusive.")
        inputs = self.fingerprints()
        job = {"program": self.program, "version": self.version, **self.identity(inputs)}
        digest = hashlib.sha256(json.dumps(job).encode()).hexdigest()
        stopped = staging_directory(output).exists()
        if reuse and output.is_dir() and any(output.iterdir()):
            if not self._made(output, digest):
                fix = "give another output, or delete it"
                raise ValueError(f"{output} was made from other inputs or with other settings than now given; {fix}.")
            if not stopped:
                return open_log(output)
        elif not stopped:
            check_output(output, overwrite)
        go_on = f"make room and run again, it resumes where it stopped (or delete {staging_directory(output)} to give it up)"
        with full_disk(output, go_on), Staging(output, job) as self.staging:
            if stopped and self._made(output, digest):
                # It was killed after its last step, while it cleaned up.
                self.bad.restore(open_log(output, verify=False).manifest["bad_rows"])
            else:
                check_output(output, overwrite)
                with ThreadPoolExecutor(workers) as executor, self.open_stage(executor, workers) as self.stage:
                    if self.staging.state is not None:
                        self.restore(self.staging.state)
                        self.bad.restore(self.staging.state["bad"])
                    self._read(executor)
                    for name, before, now in zip(self.inputs, inputs, self.fingerprints(), strict=True):
                        if now != before:
                            raise ValueError(f"{name}: changed while it was read; run again when it is complete.")
                    self._write()
                    self._place(output, digest, overwrite)
            self.staging.remove()
        return open_log(output, verify=False)

    def state(self, step: str, **more: Any) -> dict[str, Any]:
        """The state to commit."""
        return {"step": step, **self.position(), "bad": self.bad.state(), **more}

    def count(self, rows: int) -> None:
        """Tell of rows that were written."""
        self._counted += rows
        self._progress(self._counted, sum(self.rows()), "write")

    def _read(self, executor: ThreadPoolExecutor) -> None:
        if self.staging.state is not None and self.staging.state["step"] != "read":
            return
        for number, share, seen in self.read_blocks(executor):
            part = (sum(self.sizes[:number]) + self.sizes[number] * share) / max(sum(self.sizes), 1)
            self._progress(seen, max(seen, round(seen / part)) if part else None, "read")
        if not sum(self.rows()):
            if self.bad.skipped:
                raise ValueError(f"{self.program}: no rows are left, {self.bad.skipped} were skipped: {self.bad.examples[0]}")
            raise ValueError(f"{self.inputs[0]}: no rows are left; the inputs are empty, or every row was dropped.")
        self.stage.commit(self.state("write"))

    def _write(self) -> None:
        specs = self.prepare()
        state = self.staging.state
        if state["step"] == "place":
            return
        if not state.get("headers"):
            for split in self.part_rows():
                for name, spec in specs.items() if split not in self.in_place else ():
                    self.staging.append(f"{split}.{name}", layout.array_header(*spec, 0))
            self.staging.commit(self.state("write", headers=True))
        uncommitted = 0
        for split, arrays, written in self.pieces(state.get("written", 0)):
            for name, (dtype, _) in specs.items():
                data = as_bytes(arrays[name].astype(dtype, copy=False))
                self.staging.append(f"{split}.{name}", data)
                uncommitted += len(data)
            if written is not None and uncommitted >= COMMIT_BYTES:
                self.staging.commit(self.state("write", written=written, headers=True))
                uncommitted = 0
        self.staging.commit(self.state("place"))

    def _place(self, output: Path, digest: str, overwrite: bool) -> None:
        """Put the files, the schema and the preprocessor together, and give them their name."""
        preprocessor = self.preprocessor()
        specs = layout.array_specs(preprocessor.schema)
        with PackedWriter(self.staging.complete, preprocessor.schema, preprocessor) as writer:
            for split, rows in self.part_rows().items():
                prefix = "" if split in self.in_place else f"{split}."
                files = {name: self.staging.path(prefix + name) for name in specs}
                for name, spec in specs.items():
                    with open(files[name], "r+b") as file:
                        file.write(layout.array_header(*spec, rows))
                writer.adopt(split, files, rows)
            writer.note(self.program, {**self.note(), "job": digest})
            writer.note("bad_rows", self.bad.state())
        place_log(self.staging.complete, output, overwrite)

    def _made(self, output: Path, digest: str) -> bool:
        """True where `output` was made by this job."""
        try:
            return open_log(output, verify=False).manifest[self.program]["job"] == digest
        except (OSError, ValueError, KeyError):
            return False
