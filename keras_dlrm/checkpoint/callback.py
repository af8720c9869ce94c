"""Callback `Checkpoints`: saves during `fit`, and before a machine is taken away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.checkpoint.writing import save
from keras_dlrm.files.durable import check_writable
from keras_dlrm.sharding import everyone
from keras_dlrm.sharding.processes import PREEMPTED
from keras_dlrm.support.arguments import integer


class Checkpoints(keras.callbacks.Callback):
    """Saves every so many steps, at the end, and when the process gets SIGTERM: then training ends after the save.

    All processes save at the same step: every `look` steps they ask each other whether one was told to end.

    Args:
        directory: Folder of the checkpoints.
        steps: Steps between two.
        first: Steps before this `fit`.
        extra: `() → dict`: what else to remember.
        keep: How many stay.
        whole: Every how many saves is a whole checkpoint; those between have only the rows that are not as in it. 1: all.
        look: Steps between two looks for SIGTERM.

    Raises:
        OSError: when training begins, `directory` cannot be written to.
        ValueError: `steps`, `whole` or `look` is not 1 or more.

    Attributes:
        preempted: Whether training ended because of SIGTERM.
    """

    def __init__(
        self, directory: str | Path, steps: int, first: int = 0, extra: Callable[[], dict[str, Any]] = dict,
        keep: int | None = 2, whole: int = 1, look: int = 10,
    ) -> None:  # fmt: skip
        super().__init__()
        self.directory, self.extra, self.keep = Path(directory).absolute(), extra, keep
        self.steps, self.whole, self.look = (
            integer("Checkpoints", name, value) for name, value in (("steps", steps), ("whole", whole), ("look", look))
        )
        self.step = first
        self.preempted = False
        self._told = False
        self._saved, self._saves = first, 0
        self._previous: Any = None

    def _save(self) -> None:
        save(self.model, self.directory, self.step, self.extra(), self.keep, incremental=self._saves % self.whole > 0)
        self._saved = self.step
        self._saves += 1

    def on_train_begin(self, logs: Any = None) -> None:
        check_writable(self.directory)
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, number: int, frame: Any) -> None:
        self._told = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        if self.step % self.look == 0 and self._any_told():
            self.preempted = True
            self._save()
            self.model.stop_training = True
            raise SystemExit(PREEMPTED)
        if self.step % self.steps == 0:
            self._save()

    def _any_told(self) -> bool:
        if not getattr(self.model, "shared", False):
            return self._told
        return bool(everyone.arrays(np.array([self._told])).any())

    def on_train_end(self, logs: Any = None) -> None:
        if self._saved != self.step:
            self._save()
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
