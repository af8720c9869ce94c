"""The processes of a cluster: which one this is, and all of them started on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_dlrm.sharding.heartbeat import FOLDER, PROCESS, Watch
from keras_dlrm.sharding.launch import PARENT, free_ports
from keras_dlrm.support.arguments import integer

# Exit code of a chief that lost a server: it can go on from its last checkpoint (sysexits.h: try again).
SERVER_LOST = 75
_POLL = 0.1  # seconds
# A worker that fails so often, each time within so many seconds of its start, would fail for ever.
_FAILURES, _SOON = 3, 60.0


def task() -> tuple[str, int] | None:
    """This process's task, as `TF_CONFIG` has it: `("chief" | "worker" | "ps", index)`; `None` without one.

    Raises:
        ValueError: `TF_CONFIG` is none of a cluster with a chief, workers and servers (`"ps"`).
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return None
    try:
        config = json.loads(text)
        jobs, kind, index = config["cluster"], config["task"]["type"], int(config["task"]["index"])
        complete = all(jobs.get(job) for job in ("chief", "worker", "ps")) and 0 <= index < len(jobs[kind])
    except (ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise ValueError(
            f"TF_CONFIG={text!r} must name a cluster with chief, worker and ps, each a list of host:port, and a task of it: "
            '{"cluster": {"chief": […], "worker": […], "ps": […]}, "task": {"type": "worker", "index": 0}}.'
        )
    return kind, index


def loopback(workers: int, servers: int) -> dict[str, list[str]]:
    """A cluster on free ports of this machine, as `TF_CONFIG` has it.

    Args:
        workers: Number of workers.
        servers: Number of parameter servers.

    Example:

    >>> cluster = loopback(workers=2, servers=1)
    >>> [len(cluster[job]) for job in ("chief", "worker", "ps")]
    [1, 2, 1]
    """
    counts = {
        "chief": 1,
        "worker": integer("loopback", "workers", workers),
        "ps": integer("loopback", "servers", servers),
    }
    free = iter([f"127.0.0.1:{port}" for port in free_ports(sum(counts.values()))])
    return {job: [next(free) for _ in range(count)] for job, count in counts.items()}


def launch(
    command: Sequence[str],
    workers: int,
    servers: int,
    restarts: int = 3,
    settings: dict[str, str] | None = None,
    timeout: float = 300.0,
) -> int:
    """Run a program as chief, workers and servers on this machine until the chief ends.

    A worker that dies is started again, unless it keeps ending with an error as soon as it starts. When a server dies, which
    has part of the model, or the chief says that it lost one, all are started again: the program should go on from its last
    checkpoint. A process that hangs, stopped or without a core, is ended and counts as dead. The processes' ids go to stderr, a
    JSON object a line. They end with this one.

    Args:
        command: The program and its arguments; each process gets its own `TF_CONFIG`.
        workers: Number of workers.
        servers: Number of parameter servers.
        restarts: How often all may be started again.
        settings: Further environment variables.
        timeout: Seconds without a sign of life, which `serve` and `ParameterServerTraining` give every second, until a process
            counts as hung.

    Returns:
        The chief's exit code, or that of a worker that keeps failing.
    """
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for left in range(restarts, -1, -1):
            with tempfile.TemporaryDirectory() as beats:
                code = _Run(command, loopback(workers, servers), settings or {}, Path(beats), timeout).wait()
            if code != SERVER_LOST or not left:
                return code
            print(json.dumps({"restarting": "all"}), file=sys.stderr, flush=True)
        return SERVER_LOST
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


class _Run:
    """All processes of a cluster."""

    def __init__(
        self, command: Sequence[str], cluster: dict[str, list[str]], settings: dict[str, str], beats: Path, timeout: float
    ) -> None:
        self.command = list(command)
        self.cluster = cluster
        self.settings = settings
        self.beats, self.timeout = beats, timeout
        self.watch = Watch(beats)
        self.processes: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        self._since: dict[int, float] = {}
        self._failures: dict[int, int] = {}
        self._tasks = [(kind, index) for kind in ("ps", "worker", "chief") for index in range(len(cluster[kind]))]
        for task in self._tasks:
            self.processes[task] = self._start(*task)

    def _start(self, kind: str, index: int) -> subprocess.Popen[bytes]:
        config = {"cluster": self.cluster, "task": {"type": kind, "index": index}}
        number = str(self._tasks.index((kind, index)))
        (self.beats / number).unlink(missing_ok=True)  # of the one before
        environment = {**os.environ, **self.settings, "TF_CONFIG": json.dumps(config), PARENT: str(os.getpid())}
        environment |= {FOLDER: str(self.beats), PROCESS: number}
        # Only the chief has results to print.
        process = subprocess.Popen(
            self.command, env=environment, stdout=None if kind == "chief" else sys.stderr.fileno()
        )
        print(json.dumps({"started": f"{kind}:{index}", "pid": process.pid}), file=sys.stderr, flush=True)
        if kind == "worker":
            self._since[index] = time.monotonic()
        return process

    def _keeps_failing(self, worker: int, code: int) -> bool:
        """Whether a worker that ended would end again. One that a signal ended was killed, or ran out of memory: not by itself."""
        soon = code > 0 and time.monotonic() - self._since[worker] < _SOON
        self._failures[worker] = self._failures.get(worker, 0) + 1 if soon else 0
        return self._failures[worker] >= _FAILURES

    def _hung(self) -> Iterator[tuple[str, int]]:
        """Those that have given signs of life, and give none any more."""
        for number, beat in self.watch.look().items():
            if beat.silent > self.timeout and self.processes[self._tasks[number]].poll() is None:
                yield self._tasks[number]

    def _why(self, kind: str, index: int) -> dict[str, str]:
        """What a process said of its end, if it did."""
        number = self._tasks.index((kind, index))
        told = [failure.error for failure in self.watch.failures() if failure.process == number]
        return {"error": told[-1]} if told else {}

    def wait(self) -> int:
        """The chief's exit code, `SERVER_LOST`, or that of a worker that keeps failing. All have ended then."""
        chief = self.processes["chief", 0]
        try:
            while chief.poll() is None:
                for kind, index in self._hung():
                    hung = {"hung": f"{kind}:{index}", "seconds without a sign of life": self.timeout}
                    print(json.dumps(hung), file=sys.stderr, flush=True)
                    self.processes[kind, index].kill()
                    self.processes[kind, index].wait()
                for (kind, index), process in self.processes.items():
                    if process.poll() is None or kind == "chief":
                        continue
                    if kind == "ps":
                        print(json.dumps({"lost": f"ps:{index}", **self._why(kind, index)}), file=sys.stderr, flush=True)
                        return SERVER_LOST
                    if self._keeps_failing(index, process.returncode):
                        failing = {"failing": f"worker:{index}", "exit code": process.returncode, "times": _FAILURES}
                        failing |= self._why(kind, index)
                        print(json.dumps(failing), file=sys.stderr, flush=True)
                        return process.returncode
                    self.processes[kind, index] = self._start(kind, index)
                time.sleep(_POLL)
            return chief.returncode if chief.returncode >= 0 else SERVER_LOST
        finally:
            for process in self.processes.values():
                process.kill()
            for process in self.processes.values():
                process.wait()
