"""Criteo preprocessing that is killed, runs out of disk or meets bad lines: complete and identical, or absent."""

from __future__ import annotations

import contextlib
import gzip
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

import numpy as np
import pytest

from keras_dlrm.data import criteo
from keras_dlrm.data.criteo import reader as criteo_reader
from keras_dlrm.data.criteo import splits as criteo_splits
from keras_dlrm.data.criteo import stage as criteo_stage
from keras_dlrm.data.jobs.staging import Staging
from keras_dlrm.files.marker import MARKER

pytestmark = pytest.mark.neutral

# Imports once, and works off each line that it reads in a process of its own.
PROGRAM = """
    import contextlib, os, sys
    from keras_dlrm.data import criteo
    from keras_dlrm.data.criteo import reader as criteo_reader, splits as criteo_splits, stage as criteo_stage
    criteo_reader.BLOCK_BYTES, criteo_stage.COMMIT_BYTES = 40_000, 30_000
    criteo_splits.CHUNK, criteo_splits.BUCKET_BYTES = 300, 60_000
    for line in sys.stdin:
        inputs, output, arguments = eval(line)
        # Compiled code is there for every child; nothing that is used here leaves threads.
        with contextlib.suppress(ValueError):
            criteo.encode(inputs)
        child = os.fork()
        if not child:
            try:
                criteo.preprocess(inputs, output, **arguments)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
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


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)  # which names the folder
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Workshop:
    """Runs jobs in processes of their own, which can be killed."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, job: tuple[list[str], str, dict[str, Any]], kill_after: float | None = None) -> int:
        """The exit code of a job, which is killed after some seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(repr(job) + "\n")
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


def kill_often(workshop: Workshop, folder: Path, name: str, kills: int, seed: int) -> int:
    """Kills at random moments until so many hit; what comes out between is compared. Returns the finished runs."""
    draw = random.Random(seed)
    lines = make_lines(4000, bad="torchrec" in name)
    paths = [folder / "day_0", folder / "day_1.gz"] if "torchrec" in name else [folder / "train.txt"]
    cut = len(lines) // len(paths)
    for k, path in enumerate(paths):
        text = "".join(line + "\n" for line in lines[k * cut : (k + 1) * cut]).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    inputs, output, partial = [str(path) for path in paths], folder / "out", folder / ".out.partial"
    lasts = 0.0
    for whole in ("warm", "whole"):
        began = time.perf_counter()
        assert workshop.run((inputs, str(folder / whole), JOBS[name])) == 0
        lasts = time.perf_counter() - began
    expected = contents(folder / "whole")
    assert contents(folder / "warm") == expected
    job = (inputs, str(output), JOBS[name])
    hits = finished = 0
    while hits < kills:
        hits += workshop.run(job, draw.random() * lasts) == -signal.SIGKILL
        assert not output.exists() or contents(output) == expected
        if draw.random() < 0.4 or hits == kills:
            # It may be complete: killed after the last step.
            assert partial.exists() <= (workshop.run(job) == 0)
        if output.exists() and not partial.exists():
            assert contents(output) == expected
            finished += 1
            shutil.rmtree(output)
    assert finished and not partial.exists()
    return finished


@pytest.mark.slow
@pytest.mark.parametrize("name", list(JOBS))
def test_killed_a_few_times_the_output_is_the_same(workshop: Workshop, tmp_path: Path, name: str) -> None:
    kill_often(workshop, tmp_path, name, kills=2, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("name", list(JOBS))
def test_killed_at_twenty_random_moments_the_output_is_the_same(workshop: Workshop, tmp_path: Path, name: str) -> None:
    kill_often(workshop, tmp_path, name, kills=20, seed=1)


class Stopped(BaseException):
    """In place of a kill."""


@pytest.mark.parametrize("name", list(JOBS))
def test_stopped_at_every_step_it_goes_on_to_the_same_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(criteo_reader, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(criteo_stage, "COMMIT_BYTES", 15_000)
    monkeypatch.setattr(criteo_splits, "CHUNK", 100)
    monkeypatch.setattr(criteo_splits, "BUCKET_BYTES", 20_000)
    path = tmp_path / "raw.txt"
    path.write_text("\n".join(make_lines(400, bad="torchrec" in name)))
    criteo.preprocess(path, tmp_path / "whole", **JOBS[name])
    commit, steps = Staging.commit, []
    for stop in range(100):
        left = stop

        def stopping(self: Staging, state: Any) -> None:
            nonlocal left
            commit(self, state)
            steps.append(state["step"])
            left -= 1
            if left < 0:
                raise Stopped

        monkeypatch.setattr(Staging, "commit", stopping)
        try:
            criteo.preprocess(path, tmp_path / "out", **JOBS[name])
            break
        except Stopped:
            assert not (tmp_path / "out").exists()
    assert {"read", "write", "place"} <= set(steps)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_arguments_or_changed_inputs_start_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteo_reader, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(criteo_stage, "COMMIT_BYTES", 1)
    path = tmp_path / "raw.txt"
    lines = make_lines(300)
    path.write_text("\n".join([*lines, "broken"]))
    with pytest.raises(ValueError, match="line 301: 1 columns"):
        criteo.preprocess(path, tmp_path / "out")
    assert (tmp_path / ".out.partial").exists()
    # The policy is no part of the job: with another one it goes on.
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
    monkeypatch.setattr(criteo_stage, "COMMIT_BYTES", 10_000)
    path = tmp_path / "raw.txt"
    path.write_text("\n".join(make_lines(600)))
    whole = criteo.preprocess(path, tmp_path / "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit to the size of files is what stands in for the disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(OSError, match="out: not written, the disk is full"):
            criteo.preprocess(path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "out").exists()
    criteo.preprocess(path, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole.directory)
