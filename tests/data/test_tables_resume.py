"""Preprocessing of tables that is killed or runs out of disk: complete and identical, or absent."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.table_logs import FORMATS, SCHEMA, contents, make_rows, results, save, spoil

from keras_dlrm.data import tables
from keras_dlrm.data.jobs.staging import Staging
from keras_dlrm.data.tables import job as table_job
from keras_dlrm.data.tables import records as table_records
from keras_dlrm.data.tables import stage as table_stage
from keras_dlrm.data.tables import text as table_text

pytestmark = pytest.mark.neutral

# Imports once, and works off each line that it reads in a process of its own.
PROGRAM = """
    import os, sys
    from keras_dlrm.data import tables
    from keras_dlrm.data.tables import job as table_job, records as table_records, stage as table_stage, text as table_text
    from keras_dlrm.schema.schema import Schema
    table_text.BLOCK_BYTES, table_text.BLOCK_ROWS, table_records.BLOCK_RECORDS = 20_000, 150, 150
    table_stage.COMMIT_BYTES, table_stage.CHUNK, table_job.COMMIT_BYTES = 10_000, 200, 10_000
    for line in sys.stdin:
        schema, inputs, output, arguments = eval(line)
        child = os.fork()
        if not child:
            try:
                tables.preprocess(Schema.from_dict(schema), inputs, output=output, **arguments)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
ARGUMENTS: dict[str, Any] = {"split": {"train": 0.7, "valid": 0.1, "test": 0.2}, "on_error": "skip"}


class Workshop:
    """Runs jobs in processes of their own, which can be killed."""

    def __init__(self) -> None:
        program = textwrap.dedent(PROGRAM)
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, inputs: list[str], output: str, kill_after: float | None = None) -> int:
        """The exit code of a job, which is killed after some seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(repr((SCHEMA.to_dict(), inputs, output, ARGUMENTS)) + "\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            # Where it has ended and nobody else has its number yet, there is none to kill.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the program."""
        self._process.communicate()


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    """One for all tests: its imports take seconds."""
    workshop = Workshop()
    yield workshop
    workshop.close()


def kill_often(workshop: Workshop, folder: Path, ending: str, kills: int, seed: int) -> None:
    """Kills at random moments until so many hit; what comes out between is compared."""
    draw = random.Random(seed)
    rows = spoil(make_rows(3000))
    inputs = [str(save(part, folder / f"part{k}.{ending}")) for k, part in enumerate((rows[:1700], rows[1700:]))]
    output, partial = folder / "out", folder / ".out.partial"
    lasts = 0.0
    for whole in ("warm", "whole"):
        began = time.perf_counter()
        assert workshop.run(inputs, str(folder / whole)) == 0
        lasts = time.perf_counter() - began
    expected = contents(folder / "whole")
    assert contents(folder / "warm") == expected
    hits = finished = 0
    while hits < kills:
        hits += workshop.run(inputs, str(output), draw.random() * lasts) == -signal.SIGKILL
        assert not output.exists() or contents(output) == expected
        if draw.random() < 0.4 or hits == kills:
            # It may be complete: killed after the last step.
            assert partial.exists() <= (workshop.run(inputs, str(output)) == 0)
        if output.exists() and not partial.exists():
            assert contents(output) == expected
            finished += 1
            shutil.rmtree(output)
    assert finished and not partial.exists()


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "parquet", "tfrecord"])
def test_killed_a_few_times_the_output_is_the_same(workshop: Workshop, tmp_path: Path, ending: str) -> None:
    kill_often(workshop, tmp_path, ending, kills=3, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("ending", ["csv", "parquet", "tfrecord"])
def test_killed_at_twenty_random_moments_the_output_is_the_same(
    workshop: Workshop, tmp_path: Path, ending: str
) -> None:
    kill_often(workshop, tmp_path, ending, kills=20, seed=1)


class Stopped(BaseException):
    """In place of a kill."""


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_text, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(table_text, "BLOCK_ROWS", 37)
    monkeypatch.setattr(table_records, "BLOCK_RECORDS", 41)
    monkeypatch.setattr(table_stage, "COMMIT_BYTES", 2000)
    monkeypatch.setattr(table_stage, "CHUNK", 50)
    monkeypatch.setattr(table_job, "COMMIT_BYTES", 2000)


@pytest.mark.parametrize("ending", FORMATS)
def test_stopped_after_every_commit_it_goes_on_to_the_same_output(
    small_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    rows = spoil(make_rows(400))
    inputs = [save(rows[:250], tmp_path / f"a.{ending}"), save(rows[250:], tmp_path / f"b.{ending}")]
    tables.preprocess(SCHEMA, inputs, output=tmp_path / "whole", **ARGUMENTS)
    commit, steps = Staging.commit, []

    def stopping(self: Staging, state: Any) -> None:
        commit(self, state)
        steps.append(state["step"])
        raise Stopped

    for _ in range(100):
        monkeypatch.setattr(Staging, "commit", stopping)
        try:
            tables.preprocess(SCHEMA, inputs, output=tmp_path / "out", workers=3, **ARGUMENTS)
            break
        except Stopped:
            assert not (tmp_path / "out").exists()
    assert {"read", "write", "place"} <= set(steps)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_every_format_number_of_workers_and_size_of_blocks_gives_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(500)
    outputs = []
    for ending in FORMATS:
        path = save(rows, tmp_path / f"log.{ending}")
        for workers, size in ((1, 65_536), (3, 13)):
            for module, name in (
                (table_text, "BLOCK_ROWS"),
                (table_records, "BLOCK_RECORDS"),
            ):
                monkeypatch.setattr(module, name, size)
            monkeypatch.setattr(table_text, "BLOCK_BYTES", size * 64)
            output = tmp_path / f"{ending} {workers}"
            tables.preprocess(SCHEMA, path, output=output, split={"train": 0.8, "test": 0.2}, workers=workers)
            outputs.append(results(output))
    assert all(found == outputs[0] for found in outputs)


def test_another_policy_goes_on_and_other_arguments_start_anew(small_parts: None, tmp_path: Path) -> None:
    rows = make_rows(300)
    path = save([*rows, {**rows[0], "click": 7}], tmp_path / "log.csv")
    with pytest.raises(ValueError, match="line 302, column click: value '7' must be 0 or 1"):
        tables.preprocess(SCHEMA, path, output=tmp_path / "out")
    assert (tmp_path / ".out.partial").exists() and not (tmp_path / "out").exists()
    log = tables.preprocess(SCHEMA, path, output=tmp_path / "out", on_error="skip")
    assert log.manifest["bad_rows"]["skipped"] == 1
    with pytest.raises(ValueError, match="line 302"):
        tables.preprocess(SCHEMA, path, output=tmp_path / "other")
    save(rows[::-1], path)
    tables.preprocess(SCHEMA, path, output=tmp_path / "other", split={"train": 1.0})
    tables.preprocess(SCHEMA, path, output=tmp_path / "fresh", split={"train": 1.0})
    assert contents(tmp_path / "other") == contents(tmp_path / "fresh")


def test_a_full_disk_leaves_no_output_and_it_goes_on_when_there_is_room(small_parts: None, tmp_path: Path) -> None:
    path = save(make_rows(1500), tmp_path / "log.parquet")
    whole = tables.preprocess(SCHEMA, path, output=tmp_path / "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit to the size of files is what stands in for the disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, limits[1]))
    try:
        with pytest.raises(OSError, match="out: not written, the disk is full"):
            tables.preprocess(SCHEMA, path, output=tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "out").exists()
    tables.preprocess(SCHEMA, path, output=tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole.directory)


def test_a_file_that_vanishes_or_changes_is_named(
    small_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(200)
    paths = [save(rows[:100], tmp_path / "a.csv"), save(rows[100:], tmp_path / "b.csv")]

    def vanish(done: int, total: int | None, step: str) -> None:
        paths[1].unlink(missing_ok=True)

    with pytest.raises(FileNotFoundError, match="b.csv"):
        tables.preprocess(SCHEMA, paths, output=tmp_path / "out", progress=vanish)
    save(rows[100:], paths[1])

    def change(done: int, total: int | None, step: str) -> None:
        os.utime(paths[0], (1, 1))

    with pytest.raises(ValueError, match="a.csv: changed while it was read"):
        tables.preprocess(SCHEMA, paths, output=tmp_path / "out", progress=change)
    assert not (tmp_path / "out").exists()


def test_an_output_that_was_being_replaced_is_not_lost(small_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(make_rows(300), tmp_path / "log.csv")
    output = tmp_path / "out"
    tables.preprocess(SCHEMA, path, output=output)
    old = contents(output)
    rename = os.rename

    def killed(source: Path, target: Path) -> None:
        rename(source, target)
        if source == output:
            raise SystemExit  # stands for a kill: nothing is put back

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(SystemExit):
        tables.preprocess(SCHEMA, path, output=output, split={"train": 0.5, "test": 0.5}, overwrite=True)
    monkeypatch.undo()
    assert not output.exists()
    # Another job, which fails.
    with pytest.raises(FileExistsError, match="overwrite=True"):
        tables.preprocess(SCHEMA, path, output=output, split={"train": 0.7, "test": 0.3})
    assert contents(output) == old
