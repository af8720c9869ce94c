"""Jobs in processes of their own that are killed at random moments, for the tests of resuming."""

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.table_logs import contents
from keras_dlrm.data.jobs.staging import Staging

# Imports once, and works off each line that it reads in a process of its own; nothing that is used here leaves threads.
_LOOP = """
for line in sys.stdin:
    arguments = eval(line)
    warm(*arguments)
    child = os.fork()
    if not child:
        try:
            work(*arguments)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Workshop:
    """Runs jobs in processes of their own, which can be killed.

    Args:
        program: Defines `work`, the job, and `warm`, what is done before it is started, with its arguments.
    """

    def __init__(self, program: str) -> None:
        command = [sys.executable, "-c", "import os, sys\n" + textwrap.dedent(program) + _LOOP]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, arguments: tuple[Any, ...], kill_after: float | None = None) -> int:
        """The exit code of a job, which is killed after some seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(repr(arguments) + "\n")
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


def kill_often(workshop: Workshop, job: Callable[[Path], tuple[Any, ...]], folder: Path, kills: int, seed: int) -> None:
    """Kill a job, given by its output, at random moments until so many kills hit; what comes out between is compared."""
    draw = random.Random(seed)
    output, partial = folder / "out", folder / ".out.partial"
    lasts = 0.0
    for whole in ("warm", "whole"):
        began = time.perf_counter()
        assert workshop.run(job(folder / whole)) == 0
        lasts = time.perf_counter() - began
    expected = contents(folder / "whole")
    assert contents(folder / "warm") == expected
    hits = finished = 0
    while hits < kills:
        hits += workshop.run(job(output), draw.random() * lasts) == -signal.SIGKILL
        assert not output.exists() or contents(output) == expected
        if draw.random() < 0.4 or hits == kills:
            # It may be complete: killed after the last step.
            assert partial.exists() <= (workshop.run(job(output)) == 0)
        if output.exists() and not partial.exists():
            assert contents(output) == expected
            finished += 1
            shutil.rmtree(output)
    assert finished and not partial.exists()


class Stopped(BaseException):
    """In place of a kill."""


def stop_after_commits(job: Callable[[Path], Any], folder: Path, monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    """Stop a job again and again, each time `more` commits later, until it is done; the output is that of a whole run."""
    job(folder / "whole")
    commit, steps = Staging.commit, []
    for stop in range(100):
        left = stop * more

        def stopping(self: Staging, state: Any) -> None:
            nonlocal left
            commit(self, state)
            steps.append(state["step"])
            left -= 1
            if left < 0:
                raise Stopped

        monkeypatch.setattr(Staging, "commit", stopping)
        try:
            job(folder / "out")
            break
        except Stopped:
            assert not (folder / "out").exists()
    assert {"read", "write", "place"} <= set(steps)
    assert contents(folder / "out") == contents(folder / "whole")


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[None]:
    """A limit to the size of files stands in for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
