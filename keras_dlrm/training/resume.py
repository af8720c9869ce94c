"""A run that can be killed at any moment and continues with the same losses."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.files.archive import check_archive
from keras_dlrm.files.durable import whole
from keras_dlrm.models.not_finite import require_finite


class Resume(keras.callbacks.Callback):
    """Saves everything a run depends on, and restores it.

    That is: weights, slots and step counters, states of random generators, metrics so far in the epoch, what the
    other callbacks remember, and the place in the data. The file is written aside, flushed and renamed, so a kill
    leaves the last whole one.

    Args:
        path: The file.
        steps: Batches between two saves within an epoch; the end of each epoch is saved, too.
        batches_per_epoch: Batches of a whole epoch.
        remembering: Callbacks with `state() → dict` and `restore(dict)`.
    """

    def __init__(self, path: str | Path, steps: int, batches_per_epoch: int, remembering: list[Any]) -> None:
        super().__init__()
        self.path = Path(path).absolute()
        self.steps = steps
        self.batches_per_epoch = batches_per_epoch
        self.remembering = remembering
        self.epoch = 0
        self.batch = 0
        self._first = 0  # of the present epoch in this run
        self._restored_metrics: list[np.ndarray] | None = None

    def restore(self, model: Any, example: tuple[Any, Any]) -> bool:
        """Load the file into a compiled model, if there is one. Sets `epoch` and `batch`, where to go on.

        Args:
            model: The model.
            example: Some batch and its labels: Keras creates the variables of metrics when it first sees one.

        Raises:
            ValueError: the file is damaged, or of another model.
        """
        if not self.path.exists():
            return False
        check_archive(self.path, ("place.npy",))
        with np.load(self.path, allow_pickle=False) as saved:
            place = json.loads(str(saved["place"]))
            state = _state(model)
            if place["paths"] != [v.path for v in state] or any(
                saved[f"v{i}"].shape != tuple(v.shape) for i, v in enumerate(state)
            ):
                raise ValueError(f"{self.path} is of another model or optimizer; train into another folder.")
            model.test_on_batch(*example)
            model.reset_metrics()
            for i, variable in enumerate(state):
                variable.assign(saved[f"v{i}"])
            self._restored_metrics = [saved[f"v{i}"] for i in range(len(state), len(saved.files) - 1)]
        self.epoch, self.batch = place["epoch"], place["batch"]
        for callback, memory in zip(self.remembering, place["memories"], strict=True):
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
        require_finite("train", model)  # The last whole state stays.
        state = _state(model)
        place = {
            "epoch": epoch,
            "batch": batch,
            "paths": [v.path for v in state],
            "memories": [callback.state() for callback in self.remembering],
        }
        arrays = {f"v{i}": _storable(v) for i, v in enumerate([*state, *model.metrics_variables])}
        with whole(self.path) as written:
            np.savez(written, **{"place": np.array(json.dumps(place)), **arrays})  # type: ignore[arg-type]


def _storable(variable: Any) -> np.ndarray:
    """A value in a type that `.npz` files hold: float32 for those that NumPy itself has not, such as bfloat16."""
    array = ops.convert_to_numpy(variable.value)
    return array if array.dtype.isbuiltin == 1 else array.astype(np.float32)


def _state(model: Any) -> list[Any]:
    return [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]


class BestModel(keras.callbacks.Callback):
    """Scores the validation part after each epoch, keeps the best model, lowers the rate and stops.

    Scores are exact (not Keras's binned AUC) and enter the logs as `val_auc`, `val_logloss`, `val_ne`.

    Args:
        part: Validation `Split`, or `None`: the last model counts as the best.
        path: Where to save the best model (`.keras`).
        batch_size: Rows of a batch.
        monitor: `"auc"` or `"logloss"`.
        patience: Epochs without a better score before training stops; 0: never.
        lr_factor: Factor on the learning rates after an epoch without a better score.
    """

    def __init__(
        self, part: Any, path: str | Path, batch_size: int, monitor: str, patience: int, lr_factor: float
    ) -> None:
        super().__init__()
        self.part = part
        self.path = Path(path).absolute()
        self.batch_size = batch_size
        self.monitor = monitor
        self.patience = patience
        self.lr_factor = lr_factor
        self.best: float | None = None
        self.best_epoch = 0
        self.waited = 0
        self.history: dict[str, list[float]] = {}
        self.seconds = 0.0
        self._since = 0.0

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "history": self.history,
            "seconds": self.seconds + (time.perf_counter() - self._since if self._since else 0.0),
        }

    def restore(self, memory: dict[str, Any]) -> None:
        """Inverse of `state`."""
        for name, value in memory.items():
            setattr(self, name, value)

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        return bool(self.patience) and self.waited >= self.patience

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._since = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = {} if logs is None else logs
        self.seconds += time.perf_counter() - self._since
        self._since = 0.0
        better = True
        if self.part is not None:
            found = validation_scores(self.model, self.part, self.batch_size)
            logs.update({f"val_{name}": found[name] for name in ("auc", "logloss", "ne")})
            score = found["auc"] if self.monitor == "auc" else -found["logloss"]
            better = self.best is None or score > self.best
            self.best = score if better else self.best
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        if better:
            self.best_epoch, self.waited = epoch, 0
            with whole(self.path) as written:
                self.model.save(written)
            return
        self.waited += 1
        if self.lr_factor < 1:
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) * self.lr_factor
        if self.stopped:
            self.model.stop_training = True


def predictions(model: Any, part: Any, batch_size: int) -> np.ndarray:
    """p(click) of a split in file order: float64 (N,)."""
    found = model.predict(part.dataset(batch_size), verbose=0)
    found = np.asarray(found, dtype=np.float64).reshape(-1)
    if not np.isfinite(found).all():
        raise ValueError(
            f"training diverged: {np.count_nonzero(~np.isfinite(found))} of {len(found)} predictions for the {part.name} part "
            "are not finite; lower the learning rate."
        )
    return found


def validation_scores(model: Any, part: Any, batch_size: int) -> dict[str, float]:
    """Exact scores of a split; see `kd.metrics.scores`."""
    from keras_dlrm.metrics import scores

    return scores(part.labels, predictions(model, part, batch_size), part.sample_weights())
