"""Signs of life of a process in training, for whoever watches the run."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any

import keras

PREEMPTED = 75  # exit code of a process that was told to end and has saved: try again (sysexits.h)
FOLDER = "KERAS_DLRM_HEARTBEATS"
PROCESS = "KERAS_DLRM_PROCESS"
_EVERY = 1.0  # seconds
_PHASES = ("begin", "data", "step", "end")
_RECORD = struct.Struct("<qqd")  # step, phase, seconds since the epoch


class _Beats:
    """This process's signs of life: a file that says every second, and at every change, its step and its phase.

    Phases: `"begin"`, until training begins; `"data"` and `"step"` in training; `"end"` after it. Nothing is written where no
    folder was given by `KERAS_DLRM_HEARTBEATS`, as `launch` does. The file is mapped into memory: two writes a step must cost
    nothing.
    """

    def __init__(self) -> None:
        folder = os.environ.get(FOLDER)
        self._path = None if folder is None else Path(folder) / os.environ.get(PROCESS, "0")
        self._step, self._phase = 0, "begin"
        self._mapped: mmap.mmap | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Beat from now on, until the process ends."""
        if self._path is None or self._thread is not None:
            return
        try:
            with self._path.open("w+b") as file:
                file.write(self._record())
                file.flush()
                self._mapped = mmap.mmap(file.fileno(), _RECORD.size)
        except OSError:
            return  # the run is over
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def say(self, step: int, phase: str) -> None:
        """Where this process is."""
        self._step, self._phase = step, phase
        self._write()

    def _record(self) -> bytes:
        return _RECORD.pack(self._step, _PHASES.index(self._phase), time.time())

    def _write(self) -> None:
        if self._mapped is not None:
            self._mapped[:] = self._record()

    def _beat(self) -> None:
        while True:
            time.sleep(_EVERY)
            self._write()


beats = _Beats()


class Heartbeat(keras.callbacks.Callback):
    """Tells `launch` each step of `fit`, so that a run without progress ends with the name of who keeps the others waiting.

    Args:
        step: Steps before the first.
    """

    def __init__(self, step: int = 0) -> None:
        super().__init__()
        self._step = step

    def on_train_begin(self, logs: Any = None) -> None:
        beats.begin()
        beats.say(self._step, "data")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        beats.say(self._step, "step")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step += 1
        beats.say(self._step, "data")

    def on_train_end(self, logs: Any = None) -> None:
        beats.say(self._step, "end")


def read_beats(folder: Path) -> dict[int, tuple[int, str, float]]:
    """Of each process its step, its phase and when it last said so."""
    found = {}
    for path in sorted(folder.iterdir()):
        first, second = path.read_bytes(), path.read_bytes()
        if len(first) == _RECORD.size and first == second:  # not in the middle of a write
            step, phase, when = _RECORD.unpack(first)
            found[int(path.name)] = (step, _PHASES[phase], when)
    return found
