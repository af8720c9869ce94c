"""Preprocessing of tables that is killed or runs out of disk: complete and identical, or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.killed_jobs import Workshop, kill_often, small_disk, stop_after_commits
from helpers.table_logs import FORMATS, SCHEMA, contents, make_rows, results, save, spoil

from keras_dlrm.data import tables
from keras_dlrm.data.jobs import job as jobs_job
from keras_dlrm.data.jobs import staging as job_stage
from keras_dlrm.data.tables import records as table_records
from keras_dlrm.data.tables import text as table_text

pytestmark = pytest.mark.neutral

PROGRAM = """
from keras_dlrm.data import tables
from keras_dlrm.data.jobs import job as jobs_job, staging as job_stage
from keras_dlrm.data.tables import records as table_records, text as table_text
from keras_dlrm.schema.schema import Schema
table_text.BLOCK_BYTES, table_text.BLOCK_ROWS, table_records.BLOCK_RECORDS = 20_000, 150, 150
job_stage.COMMIT_BYTES, job_stage.CHUNK, jobs_job.COMMIT_BYTES = 10_000, 200, 10_000

def warm(*arguments):
    pass

def work(schema, inputs, output, arguments):
    tables.preprocess(Schema.from_dict(schema), inputs, output=output, **arguments)
"""
ARGUMENTS: dict[str, Any] = {"split": {"train": 0.7, "valid": 0.1, "test": 0.2}, "on_error": "skip"}


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    """One for all tests: its imports take seconds."""
    workshop = Workshop(PROGRAM)
    yield workshop
    workshop.close()


def kill_tables(workshop: Workshop, folder: Path, ending: str, kills: int, seed: int) -> None:
    rows = spoil(make_rows(3000))
    inputs = [str(save(part, folder / f"part{k}.{ending}")) for k, part in enumerate((rows[:1700], rows[1700:]))]
    schema = SCHEMA.to_dict()
    kill_often(workshop, lambda output: (schema, inputs, str(output), ARGUMENTS), folder, kills, seed)


@pytest.mark.soak
def test_killed_a_few_times_the_output_is_the_same(workshop: Workshop, tmp_path: Path) -> None:
    kill_tables(workshop, tmp_path, "csv", kills=3, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("ending", ["csv", "parquet", "tfrecord"])
def test_killed_at_twenty_random_moments_the_output_is_the_same(
    workshop: Workshop, tmp_path: Path, ending: str
) -> None:
    kill_tables(workshop, tmp_path, ending, kills=20, seed=1)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_text, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(table_text, "BLOCK_ROWS", 37)
    monkeypatch.setattr(table_records, "BLOCK_RECORDS", 41)
    monkeypatch.setattr(job_stage, "COMMIT_BYTES", 2000)
    monkeypatch.setattr(job_stage, "CHUNK", 50)
    monkeypatch.setattr(jobs_job, "COMMIT_BYTES", 2000)


@pytest.mark.slow
@pytest.mark.parametrize("ending", FORMATS)
def test_stopped_after_every_commit_it_goes_on_to_the_same_output(
    small_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    rows = spoil(make_rows(400))
    inputs = [save(rows[:250], tmp_path / f"a.{ending}"), save(rows[250:], tmp_path / f"b.{ending}")]

    def job(output: Path) -> None:
        tables.preprocess(SCHEMA, inputs, output=output, workers=3, **ARGUMENTS)

    stop_after_commits(job, tmp_path, monkeypatch, more=0)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_full_disk_leaves_no_output_and_it_goes_on_when_there_is_room(small_parts: None, tmp_path: Path) -> None:
    path = save(make_rows(1500), tmp_path / "log.parquet")
    whole = tables.preprocess(SCHEMA, path, output=tmp_path / "whole")
    with small_disk(15_000), pytest.raises(OSError, match="out: not written, the disk is full"):
        tables.preprocess(SCHEMA, path, output=tmp_path / "out")
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
