"""Signs of life of a process in training, for whoever watches the run."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import keras

PREEMPTED = 75  # exit code of a process that was told to end and has saved: try again (sysexits.h)
FOLDER = "KERAS_DLRM_HEARTBEATS"
_EVERY = 1.0  # seconds


class Heartbeat(keras.callbacks.Callback):
    """Writes, every second and at every change, the step and whether this process computes it or prepares the next batch.

    Does nothing where no folder was given by `KERAS_DLRM_HEARTBEATS`, as `launch` does.

    Args:
        process: Which process this is.
        step: Steps before the first.
    """

    def __init__(self, process: int, step: int = 0) -> None:
        super().__init__()
        folder = os.environ.get(FOLDER)
        self._path = None if folder is None else Path(folder) / str(process)
        self._step, self._phase = step, "data"
        self._end = threading.Event()

    def _write(self) -> None:
        if self._path is None:
            return
        aside = self._path.with_name(f".{self._path.name}.{threading.get_ident()}")
        try:
            aside.write_text(f"{self._step} {self._phase} {time.time()}")
            aside.replace(self._path)
        except OSError:
            pass  # the run is over

    def _beat(self) -> None:
        while not self._end.wait(_EVERY):
            self._write()

    def on_train_begin(self, logs: Any = None) -> None:
        self._write()
        threading.Thread(target=self._beat, daemon=True).start()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._phase = "step"
        self._write()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step, self._phase = self._step + 1, "data"
        self._write()

    def on_train_end(self, logs: Any = None) -> None:
        self._end.set()


def read_beats(folder: Path) -> dict[int, tuple[int, str, float]]:
    """Of each process its step, its phase and when it last said so."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name.isdecimal():
            try:
                step, phase, when = path.read_text().split()
            except (OSError, ValueError):
                continue
            found[int(path.name)] = (int(step), phase, float(when))
    return found
