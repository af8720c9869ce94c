"""Progress of `fit`: bar, scores, rate, time left."""

from __future__ import annotations

import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import Progress

from keras_dlrm.support.terminal import bar

SHOWN = (("auc", "AUC"), ("logloss", "log loss"), ("ne", "NE"))


class TrainingProgress(keras.callbacks.Callback):
    """One bar per epoch, then one line with its scores.

    Args:
        console: Where to draw; the bar itself only on a terminal.
        epochs: Number of epochs.
        batches: Batches of a whole epoch.
        batch_size: Rows of a batch.
        skipped: Batches of the first epoch that a resumed run has behind it.
    """

    def __init__(self, console: Console, epochs: int, batches: int, batch_size: int, skipped: int = 0) -> None:
        super().__init__()
        self.console, self.epochs, self.batches, self.batch_size, self.skipped = console, epochs, batches, batch_size, skipped
        self._bar: Progress | None = None
        self._task: Any = None
        self._start = self._last = 0.0
        self._done = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._bar = bar(self.console, "batches")
        self._bar.start()
        name = f"epoch {epoch + 1}/{self.epochs}"
        self._task = self._bar.add_task(name, total=self.batches, completed=self.skipped, note="")
        self._done = 0
        self._start = self._last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done += 1
        now = time.perf_counter()
        # Reading a metric waits for the step that computes it, so it is done a few times a second only.
        if self._bar is not None and now - self._last > 0.3:
            self._last = now
            note = f"{self._rate(now):,.0f} samples/s  {_scores(logs or {})}"
            self._bar.update(self._task, completed=self.skipped + self._done, note=note)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.stop()
        logs = logs or {}
        line = f"epoch {epoch + 1}/{self.epochs}  {self._rate(now):,.0f} samples/s  train {_scores(logs)}"
        if "val_auc" in logs:
            line += f"  valid {_scores({k.removeprefix('val_'): v for k, v in logs.items() if k.startswith('val_')})}"
        self.console.print(line, highlight=False)
        self.skipped = 0

    def on_train_end(self, logs: Any = None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _rate(self, now: float) -> float:
        return self._done * self.batch_size / max(now - self._start, 1e-9)


def _scores(logs: Any) -> str:
    return "  ".join(f"{label} {float(logs[name]):.4f}" for name, label in SHOWN if name in logs)
