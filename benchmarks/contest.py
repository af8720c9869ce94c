"""Contestants as processes of their own, taking turns, so that each is measured in the same minutes as the others.

A contestant is a program that prints `ready`, and then, for each line that it reads, does one round of work and prints
how many milliseconds a step took. Standard library only: peers import it in environments of their own.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def arguments() -> argparse.Namespace:
    """Arguments of every contestant of a training step: `folder`, `batch` and `dtype`; others are left to it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--dtype", default="float32")
    return parser.parse_known_args()[0]


def serve(round_: Callable[[], int]) -> None:
    """The contestant's side: `round_()` does some steps and returns how many."""
    sys.stderr.flush()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        steps = round_()
        print(1000.0 * (time.perf_counter() - start) / steps, flush=True)


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One program.

    Args:
        name: What tables call it.
        command: Its command line.
        env: Environment variables besides the present ones.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Times:
    """Milliseconds a step, one figure per round."""

    name: str
    ms: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    def times_faster_than(self, other: Times) -> float:
        """Median over the rounds of the other's time over ours: drifts of the machine cancel out."""
        return statistics.median(b / a for a, b in zip(self.ms, other.ms, strict=True))


class Program:
    """A process that is spoken with line by line, once it has said `ready`.

    Args:
        name: What errors call it.
        command: Its command line.
        **environment: Variables besides the present ones.
    """

    def __init__(self, name: str, command: Sequence[str], **environment: str) -> None:
        self.name, self.command = name, command
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env={**os.environ, **environment}
        )
        while self.answer() != "ready":
            pass

    def tell(self, line: str = "go") -> None:
        """Send a line."""
        self.process.stdin.write(f"{line}\n")  # type: ignore[union-attr]

    def answer(self) -> str:
        """Read a line; `RuntimeError` where the process has ended."""
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}: {' '.join(self.command)}")
        return line.strip()

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


def has_peer(python: str, module: str, requirements: str) -> bool:
    """Whether an interpreter finds a peer's module. If not, a line says so, and which file tells how to install it."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    if subprocess.run([python, "-c", code]).returncode == 0:
        return True
    print(
        f"{module} is left out: {python} does not have it. How to make its environment: benchmarks/peers/{requirements}",
        file=sys.stderr,
    )
    return False


def contest(contestants: Sequence[Contestant], rounds: int = 7, warmup: int = 1) -> list[Times]:
    """Start all contestants, let them take turns, and give their times.

    Raises:
        RuntimeError: a contestant ended.
    """
    programs: list[Program] = []
    try:
        for each in contestants:
            programs.append(Program(each.name, each.command, **{"TF_CPP_MIN_LOG_LEVEL": "3", **each.env}))
        times = [Times(c.name, []) for c in contestants]
        for round_ in range(-warmup, rounds):
            # Every other round backwards, so that nobody always follows the same one.
            order = range(len(contestants)) if round_ % 2 == 0 else reversed(range(len(contestants)))
            for i in order:
                programs[i].tell()
                ms = float(programs[i].answer())
                if round_ >= 0:
                    times[i].ms.append(ms)
                    print(f"round {round_ + 1}/{rounds}  {contestants[i].name}: {ms:.1f} ms a step", file=sys.stderr)
        return times
    finally:
        for program in programs:
            program.end()
