"""Cleanup after a test of programs: all it leaves behind ends with it."""

import contextlib
import os
import signal
import subprocess

import pytest


@pytest.fixture(autouse=True)
def programs_end_with_their_test(monkeypatch):
    """Processes of a failed test, which may train for ever, would take the processors from all tests after it."""
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **{**options, "start_new_session": True})
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    yield
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
            with contextlib.suppress(OSError):
                pipe.close()
