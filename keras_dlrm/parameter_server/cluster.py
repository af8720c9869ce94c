"""Processes of a cluster: the role of this one, and a launcher for one machine."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from keras_dlrm.sharding.processes import POLL, PREEMPTED, Processes, loopback_addresses
from keras_dlrm.support.arguments import integer

# Exit code of a chief that lost a server: it can resume from its last checkpoint.
SERVER_LOST = PREEMPTED
# A worker that fails so often, each time within so many seconds of its start, would fail for ever.
_FAILURES, _SOON = 3, 60.0
# Seconds that a worker or server may take until its first sign of life, at least: imports from a slow disk.
_STARTS = 300.0


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
        form = '{"cluster": {"chief": […], "worker": […], "ps": […]}, "task": {"type": "worker", "index": 0}}'
        needs = "a cluster with chief, worker and ps, each a list of host:port, and a task of it"
        raise ValueError(f"TF_CONFIG={text!r} must name {needs}: {form}.")
    return kind, index


def loopback(workers: int, servers: int) -> dict[str, list[str]]:
    """A cluster of so many workers and parameter servers on free ports of this machine, as `TF_CONFIG` has it."""
    counts = {"chief": 1, "worker": integer("loopback", "workers", workers), "ps": integer("loopback", "servers", servers)}
    free = iter(loopback_addresses(sum(counts.values())))
    return {job: [next(free) for _ in range(count)] for job, count in counts.items()}


def launch(
    command: Sequence[str], workers: int, servers: int, restarts: int = 3, settings: dict[str, str] | None = None,
    timeout: float = 300.0,
) -> int:  # fmt: skip
    """Run a program as chief, workers and servers on this machine until the chief ends.

    A worker that dies is started again, unless it keeps failing as soon as it starts. When a server dies, or the chief says
    that it lost one, all are started again: the program should resume from its last checkpoint. A process that hangs is
    ended and counts as dead. The processes' ids go to stderr, a JSON object a line.

    Args:
        command: The program and its arguments; each process gets its own `TF_CONFIG`.
        workers: Number of workers.
        servers: Number of parameter servers.
        restarts: How often all may be started again.
        settings: Further environment variables.
        timeout: Seconds without a sign of life, which `serve` and the chief give every second, until a process has hung. Until
            the first they have five minutes, and the chief as long as it takes.

    Returns:
        The chief's exit code, or that of a worker that keeps failing.
    """
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for left in range(restarts, -1, -1):
            with Processes(command) as processes:
                code = _Run(processes, loopback(workers, servers), settings or {}, timeout).wait()
            if code != SERVER_LOST or not left:
                break
            _say(restarting="all")
        return code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


def _say(**event: Any) -> None:
    """Write an event to standard error, a JSON object a line."""
    print(json.dumps({name.replace("_", " "): value for name, value in event.items()}), file=sys.stderr, flush=True)


class _Run:
    """All processes of a cluster."""

    def __init__(self, processes: Processes, cluster: dict[str, list[str]], settings: dict[str, str], timeout: float) -> None:
        self.processes, self.cluster, self.settings, self.timeout = processes, cluster, settings, timeout
        self._since: dict[int, float] = {}
        self._failures: dict[int, int] = {}
        self._tasks = [(kind, index) for kind in ("ps", "worker", "chief") for index in range(len(cluster[kind]))]
        for number in range(len(self._tasks)):
            self._start(number)

    def _start(self, number: int) -> None:
        kind, index = self._tasks[number]
        config = {"cluster": self.cluster, "task": {"type": kind, "index": index}}
        pid = self.processes.start(number, {**self.settings, "TF_CONFIG": json.dumps(config)}, reports=kind == "chief")
        _say(started=f"{kind}:{index}", pid=pid)
        self._since[number] = self.processes.watch.clock

    def _keeps_failing(self, number: int, code: int) -> bool:
        """Whether a worker that ended would end again. One that a signal ended was killed, or ran out of memory: not by itself."""
        soon = code > 0 and self.processes.watch.clock - self._since[number] < _SOON
        self._failures[number] = self._failures.get(number, 0) + 1 if soon else 0
        return self._failures[number] >= _FAILURES

    def wait(self) -> int:
        """The chief's exit code, `SERVER_LOST`, or that of a worker that keeps failing."""
        chief = self._tasks.index(("chief", 0))
        while (code := self.processes.codes()[chief]) is None:
            beats = self.processes.watch.look()
            clock = self.processes.watch.clock
            for number, ended in self.processes.codes().items():
                silent, limit = clock - self._since[number], max(self.timeout, _STARTS)
                if number in beats:
                    silent, limit = beats[number].silent, self.timeout
                elif number == chief:  # may prepare data first, for as long as it takes
                    continue
                if silent > limit and ended is None:
                    _say(hung="{}:{}".format(*self._tasks[number]), seconds_without_a_sign_of_life=limit)
                    self.processes.kill(number)
            for number, ended in self.processes.codes().items():
                kind, index = self._tasks[number]
                if ended is None or kind == "chief":
                    continue
                # The last thing that it said: an earlier one may be from before it was started again.
                said = {failure.process: failure.error for failure in self.processes.watch.failures()}
                why = {"error": said[number]} if number in said else {}
                if kind == "ps":
                    _say(lost=f"ps:{index}", **why)
                    return SERVER_LOST
                if self._keeps_failing(number, ended):
                    _say(failing=f"worker:{index}", exit_code=ended, times=_FAILURES, **why)
                    return ended
                self._start(number)
            time.sleep(POLL)
        return code if code >= 0 else SERVER_LOST
