"""`launch`: all processes of a run on this machine, restarted when one is lost."""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_dlrm.sharding.processes import POLL, PREEMPTED, Processes, loopback_addresses
from keras_dlrm.sharding.watch import PROCESS, Beat

# For a process that failed to end by itself. At its exit it may wait for the others, which wait for it.
_LAST_WORDS = 3.0  # seconds
# Bad input; told to end, after a checkpoint or before there was anything to save.
_STOPPED = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
_FINAL = (2, PREEMPTED, *(-number for number in _STOPPED), *(128 + number for number in _STOPPED))


def is_member() -> bool:
    """Whether this process is one of a run already: of `launch`, or of a cluster's launcher."""
    names = (PROCESS, "RANK", "TF_CONFIG", "JAX_COORDINATOR_ADDRESS")
    return any(name in os.environ for name in names) or is_task()


def is_task() -> bool:
    """Whether SLURM's `srun` or Open MPI's `mpirun` started this process with others."""
    return any(int(os.environ.get(name, "1")) > 1 for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))


def take_turns() -> None:
    """Have the threads that this one starts from now on not interrupt each other (Linux's SCHED_BATCH).

    gloo's thread that receives wakes up while another holds its lock, takes that one's core, and asks for the lock again and again
    until its time is over (gloo/transport/tcp/pair.cc, `handleEvents`): on a core of its own a process stood still for up to 4 ms
    in each collective, which takes .1 ms.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(PermissionError):  # a sandbox without that call
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def launch(backend: str, processes: int, restarts: int = 0, timeout: float = 300.0, command: Sequence[str] | None = None) -> int:
    """Run a program in several processes on this machine, until all have ended.

    What they are told is what a cluster's launcher would tell them: `RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT` on torch,
    `TF_CONFIG` on TensorFlow, `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`, `JAX_LOCAL_DEVICE_IDS` on JAX. Each
    gets its share of the cores, where there is one for each.

    Args:
        backend: `"tensorflow"`, `"jax"` or `"torch"`.
        processes: How many.
        restarts: How often all are started again after one is lost: for programs that resume from a checkpoint.
        timeout: Seconds without progress after which the run counts as stuck; those that all others wait for are named. A process
            gives signs of life once it has called `kd.sharding.start`, and tells its steps where `fit` has the callback
            `keras_dlrm.sharding.heartbeat.Heartbeat`; nothing is expected of one that does neither.
        command: Program and arguments; this program by default.

    Returns:
        An exit code: 0, or the first that was not. The standard output of process 0 is this process's; the others write theirs to
        standard error.
    """
    command = [sys.executable, *sys.argv] if command is None else list(command)
    attempt, preemption = 0, _Preemption()
    previous = signal.signal(signal.SIGTERM, preemption.tell)
    try:
        while True:
            code, why = _run(command, environments(backend, processes), timeout, preemption)
            if code == 0 or attempt == restarts or code in _FINAL or preemption.told:
                if why:
                    print(why, file=sys.stderr, flush=True)
                return code if code >= 0 else 128 - code
            attempt += 1
            print(f"{why}. All start again (restart {attempt} of {restarts}).", file=sys.stderr, flush=True)
    finally:
        signal.signal(signal.SIGTERM, previous)


def environments(backend: str, processes: int) -> list[dict[str, str]]:
    """The environment variables of each process that make processes on this machine one run of a backend."""
    addresses = loopback_addresses(processes)
    host, port = addresses[0].split(":")
    members = []
    for i in range(processes):
        if processes == 1:
            variables = {}
        elif backend == "torch":
            variables = {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(processes)}
            variables |= {"MASTER_ADDR": host, "MASTER_PORT": port}
        elif backend == "jax":
            variables = {"JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(i)}
            # A GPU each; of CPUs there is one device a process anyway.
            variables |= {"JAX_COORDINATOR_ADDRESS": addresses[0], "JAX_LOCAL_DEVICE_IDS": str(i)}
        else:
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
            variables = {"TF_CONFIG": json.dumps(task)}
        members.append({"KERAS_BACKEND": backend, PROCESS: str(i), **variables})
    return members


@dataclasses.dataclass
class _Preemption:
    """SIGTERM, which is passed on to the processes: each gets the chance to save."""

    processes: Processes | None = None
    told: bool = False

    def tell(self, *_: object) -> None:
        """Tell the processes to end."""
        self.told = True
        if self.processes is not None:
            self.processes.send(signal.SIGTERM)


def _run(
    command: Sequence[str], environments: Sequence[dict[str, str]], timeout: float, preemption: _Preemption
) -> tuple[int, str]:
    """Run the processes once: an exit code, and what went wrong."""
    n = len(environments)
    # With a thread for every core in each of more processes than cores, OpenMP's threads wait for each other: torch took
    # twelve times as long.
    threads = {"OMP_NUM_THREADS": "1"} if n > len(_cores()) and "OMP_NUM_THREADS" not in os.environ else {}
    with Processes(command) as processes:
        preemption.processes = processes
        for i, environment in enumerate(environments):
            with on_cores_of(i, n):
                processes.start(i, {**threads, **environment}, reports=i == 0)
        if preemption.told:  # before all had started
            preemption.tell()
        watch = processes.watch
        progress, since = "", watch.clock
        failed_for: dict[int, float] = {}
        while True:
            codes = processes.codes()
            beats = watch.look()
            failures = watch.failures()
            first_words = {failure.process: failure for failure in reversed(failures)}
            another_ended = any(codes.values())  # perhaps because of it, and sooner than it does itself
            for i, failure in first_words.items():
                waited = watch.clock - failed_for.setdefault(i, watch.clock)
                if failure.ends and codes[i] is None and (another_ended or waited > _LAST_WORDS):
                    codes[i] = failure.code
            if any(codes.values()):
                first = _first(list(codes.values()), [each.process for each in failures])
                code = codes[first] or 1
                how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                why = f"process {first} of {n} {how}"
                why += f" in step {beats[first].step}" if first in beats else " before its first step"
                why += f": {first_words[first].error}" if first in first_words else ""
                silent = [i for i in _silent(beats) if codes[i] is None]
                # It may have waited for them until it gave up.
                return code, why + (f"; no sign of life of {silent}" if silent and code > 0 else "")
            if all(code == 0 for code in codes.values()):
                return 0, ""
            running = {i: beat for i, beat in beats.items() if codes[i] is None}
            now = "".join(f"{beat.step}{beat.phase}" for beat in running.values() if beat.phase in ("step", "data"))
            if now != progress:
                progress, since = now, watch.clock
            if max((beat.silent for beat in running.values()), default=0.0) > timeout or (now and watch.clock - since > timeout):
                return 1, _stuck(beats, n, timeout)
            time.sleep(POLL)


def _cores() -> list[int]:
    """The cores that the launcher may use."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def on_cores_of(process: int, processes: int) -> Iterator[None]:
    """While this context is open, what is started runs on this process's share of the cores that the launcher may use.

    Frameworks start a thread for each core that they may use: with all cores each, N processes would have N threads on every core.
    """
    cores = _cores()
    if sys.platform != "linux" or len(cores) < processes:
        yield
        return
    first, last = (len(cores) * i // processes for i in (process, process + 1))
    os.sched_setaffinity(0, cores[first:last])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _first(codes: Sequence[int | None], told: Sequence[int]) -> int:
    """The process to blame, by exit codes and the order in which processes said that they fail: the others failed because of it."""

    def rank(process: int) -> tuple[Any, ...]:
        code = codes[process] or 0
        # Killed, without a word. A framework aborts a process that lost another.
        if code < 0 and code != -signal.SIGABRT:
            return (0, code != -signal.SIGKILL, process)
        if process in told:
            return (2, told.index(process), process)
        return (1 if code > 0 else 3, 0, process)

    return min((i for i, code in enumerate(codes) if code), key=rank)


def _silent(beats: Mapping[int, Beat]) -> list[int]:
    return [i for i, beat in beats.items() if beat.silent > 5.0]


def _stuck(beats: Mapping[int, Beat], processes: int, timeout: float) -> str:
    """Name the processes that keep the others waiting: the silent ones, else those not in a step, else those behind."""
    silent = _silent(beats)
    outside = [i for i, beat in beats.items() if beat.phase != "step"]
    behind = [i for i, beat in beats.items() if beat.step == min(each.step for each in beats.values())]
    guilty = silent or outside or behind
    one, many, what = (
        ("gives", "give", "no sign of life") if silent else ("prepares", "prepare", "data") if outside
        else ("has", "have", "not finished its step")
    )  # fmt: skip
    who, does = ("process", one) if len(guilty) == 1 else ("processes", many)
    step = max((beat.step for beat in beats.values()), default=0)
    names = ", ".join(str(i) for i in guilty)
    return f"no progress for {timeout:g} s in step {step}: {who} {names} of {processes} {does} {what}"
