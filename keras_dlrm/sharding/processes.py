"""The processes of a run on this machine: started, watched, and ended together."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from keras_dlrm.sharding.watch import FOLDER, PROCESS, Watch

PREEMPTED = 75  # exit code of a process that was told to end and has saved: try again (sysexits.h)
PARENT = "KERAS_DLRM_LAUNCHER"
POLL = 0.1  # seconds between two looks at the processes
_PR_SET_PDEATHSIG = 1


class Processes:
    """Processes that a launcher starts by number. All of them end with the `with` block.

    Each finds where to write its signs of life, its number and its launcher in its environment. `watch` has their signs of life.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        self._folder = tempfile.TemporaryDirectory()
        self.watch = Watch(Path(self._folder.name))
        return self

    def start(self, number: int, environment: Mapping[str, str], reports: bool) -> int:
        """Start a process, in place of an earlier one of that number, with variables besides those of this process; its id.

        If it reports, it has results to print: its standard output is then this process's, else standard error.
        """
        (self.watch.folder / str(number)).unlink(missing_ok=True)  # signs of life of the earlier one
        own = {FOLDER: str(self.watch.folder), PROCESS: str(number), PARENT: str(os.getpid())}
        output = None if reports else sys.stderr.fileno()
        process = subprocess.Popen(self.command, env={**os.environ, **environment, **own}, stdout=output)
        self._running[number] = process
        return process.pid

    def codes(self) -> dict[int, int | None]:
        """Exit codes by number; `None` of a process that runs."""
        return {number: process.poll() for number, process in self._running.items()}

    def send(self, number: int) -> None:
        """Send a signal to all of them."""
        for process in self._running.values():
            process.send_signal(number)

    def kill(self, number: int) -> None:
        """End a process at once."""
        self._running[number].kill()
        self._running[number].wait()

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()
        self._folder.cleanup()


def end_with_launcher() -> None:
    """Have the kernel end this process when the process that launched it ends, however that ends."""
    parent = os.environ.get(PARENT)
    if parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if not _runs(int(parent)):  # it ended before it could be heard of
            sys.exit(1)


def _runs(pid: int) -> bool:
    """Whether a process runs: one that has ended is there as a zombie until its own parent asks for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def loopback_addresses(count: int) -> list[str]:
    """Addresses `host:port` of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()
