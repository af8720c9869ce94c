"""`Heartbeat`: signs of life of a training process."""

import contextlib
import json
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import keras

from keras_dlrm.sharding.watch import EVERY, FAILURES, FOLDER, PHASES, PROCESS, RECORD


class _Beats:
    """This process's signs of life: a file that says every second, and at every change, its step and its phase.

    Phases: `"begin"`, until training begins; `"data"` and `"step"` in training; `"end"` after it. Nothing is written where no
    folder was given by `KERAS_DLRM_HEARTBEATS`, as `launch` does. The file is mapped into memory: two writes a step must cost
    nothing. An exception that ends the process is told, too, before the others can fail because of it.
    """

    def __init__(self) -> None:
        self._step, self._phase, self._count = 0, "begin", 0
        self._mapped: mmap.mmap | None = None
        self._thread: threading.Thread | None = None

    @property
    def _path(self) -> Path | None:
        folder = os.environ.get(FOLDER)
        return None if folder is None else Path(folder) / os.environ.get(PROCESS, "0")

    def begin(self) -> None:
        """Beat from now on, until the process ends."""
        path = self._path
        if path is None or self._thread is not None:
            return
        try:
            with path.open("w+b") as file:
                file.write(self._record())
                file.flush()
                self._mapped = mmap.mmap(file.fileno(), RECORD.size)
        except OSError:
            return  # the run is over
        hook = sys.excepthook

        def told(kind: Any, error: BaseException, trace: Any) -> None:
            self.fail(error)
            hook(kind, error, trace)

        sys.excepthook = told
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def say(self, step: int, phase: str) -> None:
        """Tell the step and the phase of this process."""
        self._step, self._phase = step, phase
        self._write()

    def fail(self, error: BaseException, code: int = 1, ends: bool = True) -> None:
        """Tell that this process fails, why, and with which exit code. Of several that fail, the first to say so is to blame.

        `ends` says whether it is certain that it ends. At its exit it may wait for the others, which wait for it.
        """
        path = self._path
        if path is None:
            return
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        line = json.dumps({"process": int(path.name), "error": why, "code": code, "ends": ends}) + "\n"
        with contextlib.suppress(OSError), open(path.with_name(FAILURES), "ab", buffering=0) as file:
            file.write(line.encode())

    def _record(self) -> bytes:
        self._count += 1
        return RECORD.pack(self._step, PHASES.index(self._phase), self._count)

    def _write(self) -> None:
        if self._mapped is not None:
            self._mapped[:] = self._record()

    def _beat(self) -> None:
        while True:
            time.sleep(EVERY)
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
