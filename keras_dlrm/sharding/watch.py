"""A launcher's view of its processes: their signs of life, and their last words."""

import json
import struct
import time
from pathlib import Path
from typing import NamedTuple

FOLDER = "KERAS_DLRM_HEARTBEATS"
PROCESS = "KERAS_DLRM_PROCESS"
EVERY = 1.0  # seconds between two signs of life
PHASES = ("begin", "data", "step", "end")
# Step, phase, and how many signs of life came before: whoever watches has a clock of its own, and no time of day can jump.
RECORD = struct.Struct("<qqq")
FAILURES = "failures"


class Beat(NamedTuple):
    """The last sign of life of a process."""

    step: int
    phase: str  # one of `PHASES`
    silent: float  # seconds since then, by the clock of whoever watches


class Failure(NamedTuple):
    """The last words of a process; see `heartbeat.beats.fail`."""

    process: int
    error: str
    code: int
    ends: bool


class Watch:
    """The processes of a run, as their signs of life in a folder show them.

    Attributes:
        clock: Seconds of watching so far. Where this process itself did not run, stopped or without a core, they do not count.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = 0.0
        self._looked = time.monotonic()
        self._last: dict[int, tuple[bytes, float]] = {}  # the record, and when it first was there

    def look(self) -> dict[int, Beat]:
        """The last sign of life of each process that gives any, by number. To be called more than once a second."""
        now = time.monotonic()
        self.clock, self._looked = self.clock + min(now - self._looked, EVERY), now
        last = {}
        for path in sorted(self.folder.iterdir()):
            if path.name.isdecimal():
                process = int(path.name)
                first, second = path.read_bytes(), path.read_bytes()
                before = self._last.get(process)
                if len(first) == RECORD.size and first == second and (before is None or before[0] != first):
                    last[process] = (first, self.clock)
                elif before is not None:  # as it was, or in the middle of a write
                    last[process] = before
        self._last = last
        records = {process: (*RECORD.unpack(record), since) for process, (record, since) in last.items()}
        return {process: Beat(step, PHASES[phase], self.clock - since) for process, (step, phase, _, since) in records.items()}

    def failures(self) -> list[Failure]:
        """The last words of processes that failed, in the order in which they said them."""
        path = self.folder / FAILURES
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [Failure(**json.loads(line)) for line in lines]
