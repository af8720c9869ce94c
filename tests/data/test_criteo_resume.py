"""Criteo preprocessing that is killed, runs out of disk or meets bad lines: complete and identical, or absent."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.killed_jobs import Workshop, kill_often, small_disk, stop_after_commits
from helpers.table_logs import contents

from keras_dlrm.data import criteo
from keras_dlrm.data.criteo import reader as criteo_reader
from keras_dlrm.data.criteo import stage as criteo_stage
from keras_dlrm.data.jobs import staging as job_stage

pytestmark = pytest.mark.neutral

PROGRAM = """
import contextlib
from keras_dlrm.data import criteo
from keras_dlrm.data.criteo import reader as criteo_reader, stage as criteo_stage
from keras_dlrm.data.jobs import staging as job_stage
criteo_reader.BLOCK_BYTES, criteo_stage.BUCKET_BYTES = 40_000, 60_000
job_stage.COMMIT_BYTES, job_stage.CHUNK = 30_000, 300

def warm(inputs, output, arguments):
    # Compiled code is there for every child.
    with contextlib.suppress(ValueError):
        criteo.encode(inputs)

def work(inputs, output, arguments):
    criteo.preprocess(inputs, output, **arguments)
"""
JOBS: dict[str, dict[str, Any]] = {
    "classic": {},
    "classic subsampled and shuffled": {"subsample": 0.4, "shuffle": "total", "max_ind_range": 1000},
    "torchrec": {"dialect": "torchrec", "min_count": 2, "shuffle": "total", "on_error": "skip"},
}


def make_lines(rows: int, bad: bool = False) -> list[str]:
    draw = np.random.default_rng(rows)
    lines = []
    for i in range(rows):
        counts = ["" if u < 0.2 else str(v) for u, v in zip(draw.random(13), draw.integers(-2, 50, 13), strict=True)]
        keys = [f"{v * 477218589 % 2**32:08x}" for v in draw.integers(0, 2000, 26)]
        lines.append("\t".join([str(draw.integers(0, 2)), *counts, *keys]))
        if bad and i % 70 == 3:
            lines.append(["", "1\t2", lines[-1] + "zz", lines[-1][:50]][i % 4])
    return lines


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    """One for all tests: its imports take seconds."""
    workshop = Workshop(PROGRAM)
    yield workshop
    workshop.close()


@pytest.mark.parametrize("kills", [pytest.param(2, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", list(JOBS))
def test_killed_at_random_moments_the_output_is_the_same(workshop: Workshop, tmp_path: Path, name: str, kills: int) -> None:
    lines = make_lines(4000, bad="torchrec" in name)
    paths = [tmp_path / "day_0", tmp_path / "day_1.gz"] if "torchrec" in name else [tmp_path / "train.txt"]
    cut = len(lines) // len(paths)
    for k, path in enumerate(paths):
        text = "".join(line + "\n" for line in lines[k * cut : (k + 1) * cut]).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    inputs = [str(path) for path in paths]
    kill_often(workshop, lambda output: (inputs, str(output), JOBS[name]), tmp_path, kills=kills, seed=1)


@pytest.mark.parametrize("name", list(JOBS))
def test_stopped_at_every_step_it_goes_on_to_the_same_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(criteo_reader, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(job_stage, "COMMIT_BYTES", 15_000)
    monkeypatch.setattr(job_stage, "CHUNK", 100)
    monkeypatch.setattr(criteo_stage, "BUCKET_BYTES", 20_000)
    path = tmp_path / "raw.txt"
    path.write_text("\n".join(make_lines(400, bad="torchrec" in name)))
    stop_after_commits(lambda output: criteo.preprocess(path, output, **JOBS[name]), tmp_path, monkeypatch, more=1)


def test_other_arguments_or_changed_inputs_start_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteo_reader, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(job_stage, "COMMIT_BYTES", 1)
    path = tmp_path / "raw.txt"
    lines = make_lines(300)
    path.write_text("\n".join([*lines, "broken"]))
    with pytest.raises(ValueError, match="line 301: 1 columns"):
        criteo.preprocess(path, tmp_path / "out")
    assert (tmp_path / ".out.partial").exists()
    # The policy is not a part of the job: with another one it continues.
    log = criteo.preprocess(path, tmp_path / "out", on_error="skip")
    assert log.manifest["bad_rows"]["skipped"] == 1
    with pytest.raises(ValueError, match="line 301"):
        criteo.preprocess(path, tmp_path / "other")
    path.write_text("\n".join(lines[::-1]))
    criteo.preprocess(path, tmp_path / "other", max_ind_range=50)
    criteo.preprocess(path, tmp_path / "fresh", max_ind_range=50)
    assert contents(tmp_path / "other") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("arguments", [{}, {"subsample": 0.5}, {"dialect": "torchrec"}])
def test_skipped_lines_leave_the_output_of_the_log_without_them(tmp_path: Path, arguments: dict[str, Any]) -> None:
    clean, dirty = make_lines(300), make_lines(300, bad=True)
    (tmp_path / "clean").write_text("\n".join(clean))
    (tmp_path / "dirty").write_text("\n".join(dirty))
    log = criteo.preprocess(tmp_path / "dirty", tmp_path / "a", on_error="skip", **arguments)
    criteo.preprocess(tmp_path / "clean", tmp_path / "b", **arguments)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    del a["manifest.json"], b["manifest.json"]
    assert a == b
    assert log.manifest["bad_rows"]["skipped"] == len(dirty) - len(clean)
    with pytest.raises(ValueError, match="more than max_skipped=2"):
        criteo.preprocess(tmp_path / "dirty", tmp_path / "c", on_error="skip", max_skipped=2, **arguments)
    assert not (tmp_path / "c").exists()


def test_broken_gzip_and_an_endless_line_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(make_lines(200)).encode()
    path = tmp_path / "day.gz"
    path.write_bytes(gzip.compress(text)[:-400])
    with pytest.raises(ValueError, match="day.gz: broken after .* unpacked bytes"):
        criteo.preprocess(path, tmp_path / "out")
    path.write_bytes(text)
    with pytest.raises(ValueError, match="day.gz: broken after 0 unpacked bytes"):
        criteo.preprocess(path, tmp_path / "out")
    monkeypatch.setattr(criteo_reader, "BLOCK_BYTES", 10_000)
    path = tmp_path / "long"
    path.write_bytes(text + b"\n" + b"1\t" * 100_000)
    with pytest.raises(ValueError, match="line 201: the line has more than 65,536 bytes"):
        criteo.preprocess(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_output_and_it_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criteo_reader, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(job_stage, "COMMIT_BYTES", 10_000)
    path = tmp_path / "raw.txt"
    path.write_text("\n".join(make_lines(600)))
    whole = criteo.preprocess(path, tmp_path / "whole")
    with small_disk(30_000), pytest.raises(OSError, match="out: not written, the disk is full"):
        criteo.preprocess(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    criteo.preprocess(path, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole.directory)
