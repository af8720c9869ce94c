"""Resume of a run that was killed, with the same losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.checkpoint.reading import read
from keras_dlrm.checkpoint.state import State, state_of, value_of
from keras_dlrm.checkpoint.store import steps_in
from keras_dlrm.checkpoint.writing import write
from keras_dlrm.models.not_finite import require_finite


class Resume(keras.callbacks.Callback):
    """Checkpoints of everything that a run depends on.

    A checkpoint of `kd.checkpoint` holds tables, slots, dense parameters, step counters and random generators. Here it also
    holds the metrics so far in the epoch, what other callbacks remember, and the place in the data.

    Args:
        directory: Folder of the checkpoints; only the last one is kept.
        steps: Batches between two saves within an epoch; the end of each epoch is saved, too.
        batches_per_epoch: Batches of a whole epoch.
        remembering: Callbacks with `state() → dict` and `restore(dict)`.

    Attributes:
        epoch, batch: Where to go on after `restore`.
    """

    def __init__(self, directory: str | Path, steps: int, batches_per_epoch: int, remembering: list[Any]) -> None:
        super().__init__()
        self.directory = Path(directory).absolute()
        self.steps, self.batches_per_epoch = steps, batches_per_epoch
        self.remembering = remembering
        self.epoch = self.batch = 0
        self._first = 0  # batch of the present epoch in this run
        self._restored_metrics: list[np.ndarray] | None = None

    def restore(self, model: Any, example: tuple[Any, Any]) -> bool:
        """Load the last checkpoint into a compiled model, if there is one. Sets `epoch` and `batch`.

        Args:
            model: The model.
            example: Some batch and its labels: Keras creates the variables of metrics when it first sees one.

        Raises:
            ValueError: the checkpoint is damaged, or of another model.
        """
        if not steps_in(self.directory):
            return False
        model.test_on_batch(*example)
        model.reset_metrics()
        saved = read(_state(model), self.directory)
        if saved is None:
            return False
        self._restored_metrics = [value_of(variable) for variable in model.metrics_variables]
        self.epoch, self.batch = saved["extra"]["epoch"], saved["extra"]["batch"]
        for callback, memory in zip(self.remembering, saved["extra"]["memories"], strict=True):
            callback.restore(memory)
        return True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch
        if self._restored_metrics is not None and self.batch:
            # Keras has just reset the metrics; this epoch goes on in its middle.
            for variable, value in zip(self.model.metrics_variables, self._restored_metrics, strict=True):
                variable.assign(value)
        else:
            self.batch = 0
        self._first = self.batch
        self._restored_metrics = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Several batches with `steps_per_execution`, of which an epoch's last execution may have fewer. Batches that were
        # read ahead do not count: they are read again.
        before, self.batch = self.batch, self._first + batch + 1
        if self.batch // self.steps > before // self.steps and self.batch < self.batches_per_epoch:
            self._save(self.epoch, self.batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.batch = 0
        self._save(epoch + 1, 0)

    def _save(self, epoch: int, batch: int) -> None:
        model = self.model  # On JAX this brings the variables up to date.
        require_finite("train", model)  # The last whole checkpoint stays.
        extra = {"epoch": epoch, "batch": batch, "memories": [callback.state() for callback in self.remembering]}
        write(_state(model), self.directory, epoch * self.batches_per_epoch + batch, extra, keep=1)


def _state(model: Any) -> State:
    """The state of a model in training, metrics included."""
    state = state_of(model)
    metrics = {f"metric_{i}": variable for i, variable in enumerate(model.metrics_variables)}
    return dataclasses.replace(state, dense=state.dense | metrics)
