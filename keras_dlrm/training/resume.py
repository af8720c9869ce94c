"""Resume of a run that was killed, with the same losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.checkpoint.reading import read
from keras_dlrm.checkpoint.state import state_of, value_of
from keras_dlrm.checkpoint.writing import clear, remove_others, write
from keras_dlrm.files.checksums import check_archive
from keras_dlrm.files.durable import whole
from keras_dlrm.models.not_finite import require_finite


class Resume(keras.callbacks.Callback):
    """Checkpoints of everything that a run depends on.

    A checkpoint of `kd.checkpoint` holds tables, slots, dense parameters, step counters and random generators. A file beside
    its folder, `resume.npz` for `resume`, names it and holds the rest: the place in the data, the metrics so far in the epoch,
    and what other callbacks remember. It is replaced when the checkpoint is whole, so a kill leaves the last whole pair.

    Args:
        directory: Folder of the checkpoint.
        steps: Batches between two saves within an epoch; the end of each epoch is saved, too.
        batches_per_epoch: Batches of a whole epoch.
        remembering: Callbacks with `state() → dict` and `restore(dict)`.

    Attributes:
        epoch, batch: Where to go on after `restore`.
    """

    def __init__(self, directory: str | Path, steps: int, batches_per_epoch: int, remembering: list[Any]) -> None:
        super().__init__()
        self.directory = Path(directory).absolute()
        self.path = self.directory.with_suffix(".npz")
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
        if not self.path.exists():
            return False
        check_archive(self.path, ("place.npy",))
        with np.load(self.path, allow_pickle=False) as saved:
            place = json.loads(str(saved["place"]))
            metrics = [saved[f"metric_{i}"] for i in range(len(saved.files) - 1)] if "checkpoint" in place else []
        if "checkpoint" not in place:
            raise ValueError(
                f"{self.path} was written by an earlier release and is not read by this one; train into another folder, or "
                "overwrite the run."
            )
        model.test_on_batch(*example)
        model.reset_metrics()
        if read(state_of(model), self.directory, place["checkpoint"]) is None:
            raise ValueError(f"{self.path} names step {place['checkpoint']}, but {self.directory} has no checkpoint; train again.")
        self._restored_metrics = metrics
        self.epoch, self.batch = place["epoch"], place["batch"]
        for callback, memory in zip(self.remembering, place["memories"], strict=True):
            callback.restore(memory)
        return True

    def clear(self) -> None:
        """Remove what was saved, once the run has ended."""
        self.path.unlink(missing_ok=True)
        clear(self.directory)

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
        step = epoch * self.batches_per_epoch + batch
        write(state_of(model), self.directory, step, {}, keep=None)
        memories = [callback.state() for callback in self.remembering]
        place = {"checkpoint": step, "epoch": epoch, "batch": batch, "memories": memories}
        metrics = {f"metric_{i}": value_of(variable) for i, variable in enumerate(model.metrics_variables)}
        with whole(self.path) as written:
            np.savez(written, place=np.array(json.dumps(place)), **metrics)  # type: ignore[arg-type]
        remove_others(self.directory, step)
