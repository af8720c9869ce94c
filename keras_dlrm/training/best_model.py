"""The best model so far, by validation score, kept on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.files.durable import whole
from keras_dlrm.metrics import scores


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

    def __init__(self, part: Any, path: str | Path, batch_size: int, monitor: str, patience: int, lr_factor: float) -> None:
        super().__init__()
        self.part, self.path, self.batch_size = part, Path(path).absolute(), batch_size
        self.monitor, self.patience, self.lr_factor = monitor, patience, lr_factor
        self.best: float | None = None
        self.best_epoch, self.waited = 0, 0
        self.history: dict[str, list[float]] = {}
        self.seconds = 0.0
        self._since = 0.0

    def state(self) -> dict[str, Any]:
        """Values that a resumed run needs; `restore` takes them."""
        seconds = self.seconds + (time.perf_counter() - self._since if self._since else 0.0)
        kept = {name: getattr(self, name) for name in ("best", "best_epoch", "waited", "history")}
        return {**kept, "seconds": seconds}

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
            valid = validation_scores(self.model, self.part, self.batch_size)
            logs.update({f"val_{name}": valid[name] for name in ("auc", "logloss", "ne")})
            score = valid["auc"] if self.monitor == "auc" else -valid["logloss"]
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
    """p(click) of a split in file order: float64 (N,).

    Raises:
        ValueError: a prediction is not finite.
    """
    probabilities = np.asarray(model.predict(part.dataset(batch_size), verbose=0), dtype=np.float64).reshape(-1)
    bad = np.count_nonzero(~np.isfinite(probabilities))
    if bad:
        raise ValueError(
            f"training diverged: {bad} of {len(probabilities)} predictions for the {part.name} part are not finite; lower the "
            "learning rate."
        )
    return probabilities


def validation_scores(model: Any, part: Any, batch_size: int) -> dict[str, float]:
    """Exact scores of a split; see `kd.metrics.scores`."""
    return scores(part.labels, predictions(model, part, batch_size), part.sample_weights())
