"""Staging directories survive a kill at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from keras_dlrm.data.jobs.staging import Staging, fingerprint
from keras_dlrm.files.marker import MARKER

pytestmark = pytest.mark.neutral


def test_a_job_goes_on_from_its_last_commit(tmp_path: Path) -> None:
    with Staging(tmp_path / "out", {"a": (1, 2)}) as staging:
        assert staging.state is None
        staging.append("x", b"12")
        staging.commit([1])
        staging.append("x", b"34")
        staging.append("y", b"5")
    with Staging(tmp_path / "out", {"a": (1, 2)}) as staging:
        assert staging.state == [1]
        assert staging.path("x").read_bytes() == b"12"
        assert not staging.path("y").exists()
        staging.append("x", b"!")
        staging.flush()
        assert staging.path("x").read_bytes() == b"12!"
        staging.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["other job", "shorter file", "broken state"])
def test_what_does_not_fit_is_started_anew(tmp_path: Path, damage: str) -> None:
    with Staging(tmp_path / "out", {"job": 1}) as staging:
        staging.append("x", b"12")
        staging.commit({})
    if damage == "shorter file":
        staging.path("x").write_bytes(b"1")
    if damage == "broken state":
        (tmp_path / ".out.partial" / "state.json").write_text("{")
    with Staging(tmp_path / "out", {"job": 2 if damage == "other job" else 1}) as staging:
        assert staging.state is None
        assert [path.name for path in staging.directory.iterdir()] == [MARKER]


def test_a_job_that_fails_before_its_first_commit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), Staging(tmp_path / "out", {}) as staging:
        staging.append("x", b"1")
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_cannot_write_one_output(tmp_path: Path) -> None:
    with Staging(tmp_path / "out", {}), pytest.raises(RuntimeError, match="another process is writing it"):
        Staging(tmp_path / "out", {})


@pytest.mark.slow
def test_a_killed_process_leaves_its_commits_and_no_lock(tmp_path: Path) -> None:
    program = f"""
        from keras_dlrm.data.jobs.staging import Staging
        staging = Staging({str(tmp_path / "out")!r}, {{}})
        for i in range(1000000):
            staging.append("x", b"%07d" % i)
            staging.commit(i)
            print(i, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 20:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with Staging(tmp_path / "out", {}) as staging:
        assert staging.state >= 20
        expected = b"".join(b"%07d" % i for i in range(staging.state + 1))
        assert staging.path("x").read_bytes() == expected


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"1")
    before = fingerprint(path)
    assert fingerprint(path) == before
    path.write_bytes(b"12")
    assert fingerprint(path) != before
