"""Callbacks of a run: the best model so far, progress, and checkpoints to resume from."""

import contextlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import Progress

from keras_dlrm.checkpoint.reading import read
from keras_dlrm.checkpoint.state import state_of, value_of
from keras_dlrm.checkpoint.writing import clear, write
from keras_dlrm.files.checksums import check_archive
from keras_dlrm.files.durable import whole
from keras_dlrm.models.not_finite import require_finite
from keras_dlrm.support.terminal import bar
from keras_dlrm.training.averaging import Averaging
from keras_dlrm.training.by_label import part_scores, with_means

SHOWN = (("logloss", "loss"), ("auc", "AUC"))
# Seconds after a save in which the end of an epoch is not saved: to train that again takes about as long as to save it.
BETWEEN_SAVES = 3.0


class BestModel(keras.callbacks.Callback):
    """Scores the validation part after each epoch, keeps the best model, lowers the rate and stops, as `Experiment` has it.

    Exact scores enter the logs as `val_auc`, `val_logloss`, `val_ne`; of several labels their means, which decide, and those of
    each. Without a validation part the last model is the best.
    Without a path only the scores are kept.
    Where weights are averaged, the model with the averages is scored and kept.
    """

    def __init__(
        self, part: Any, path: str | Path | None, batch_size: int, monitor: str, patience: int, lr_factor: float,
        averaging: Averaging | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.averaging = averaging
        self.part, self.batch_size = part, batch_size
        self.path = None if path is None else Path(path).absolute()
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
        logs.update(with_means(logs, self.model.schema.labels))
        self.seconds += time.perf_counter() - self._since
        self._since = 0.0
        with self.averaging.in_place() if self.averaging is not None else contextlib.nullcontext():
            better = self._keep_better(epoch, logs)
        if better:
            return
        self.waited += 1
        if self.lr_factor < 1:
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) * self.lr_factor
        if self.stopped:
            self.model.stop_training = True

    def _keep_better(self, epoch: int, logs: dict[str, Any]) -> bool:
        """Score the model, and save it where it is the best so far."""
        better = True
        if self.part is not None:
            valid = validation_scores(self.model, self.part, self.batch_size)
            shown = ("auc", "logloss", "ne")
            logs.update({f"val_{name}": value for name, value in valid.items() if name.partition("_")[0] in shown})
            score = {"auc": valid["auc"], "logloss": -valid["logloss"], "both": valid["auc"] - valid["ne"]}[self.monitor]
            better = self.best is None or score > self.best
            self.best = score if better else self.best
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        if better:
            self.best_epoch, self.waited = epoch, 0
            if self.path is not None:
                with whole(self.path) as written:
                    self.model.save(written)
        return better


class TimeBudget(keras.callbacks.Callback):
    """Ends `fit` when its time is used up, also within an epoch, whose end is scored as any other's.

    Args:
        budget: Seconds of training and scoring, those before the checkpoint that a run resumed from included; 0: no end.
    """

    def __init__(self, budget: float) -> None:
        super().__init__()
        self.budget = budget
        self._before, self._since = 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Seconds that were used so far."""
        return self._before + (time.perf_counter() - self._since if self._since else 0.0)

    @property
    def used_up(self) -> bool:
        """Whether there is a budget and no time left of it."""
        return 0 < self.budget <= self.seconds

    def state(self) -> dict[str, Any]:
        """Values that a resumed run needs; `restore` takes them."""
        return {"seconds": self.seconds}

    def restore(self, memory: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self._before = memory["seconds"]

    def on_train_begin(self, logs: Any = None) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.used_up:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.used_up:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        self._before, self._since = self.seconds, 0.0


def scoring_batch(model: Any, batch_size: int) -> int:
    """Rows of a batch that is scored, by those of one that trains; with host tables no more than the cache surely takes."""
    return min([max(batch_size, 4096), *(store.most_examples for store in model.host_tables)])


def predictions(model: Any, part: Any, batch_size: int) -> np.ndarray:
    """p(click) of a split in file order: float64 (N,), or (N, T) of T labels; `ValueError` where one is not finite."""
    probabilities = np.asarray(model.predict(part.dataset(batch_size), verbose=0), dtype=np.float64)
    probabilities = probabilities[:, 0] if probabilities.shape[1] == 1 else probabilities
    bad = np.count_nonzero(~np.isfinite(probabilities))
    if bad:
        detail = f"{bad} of {len(probabilities)} predictions for the {part.name} part are not finite; lower the learning rate."
        raise ValueError(f"training diverged: {detail}")
    return probabilities


def validation_scores(model: Any, part: Any, batch_size: int) -> dict[str, float]:
    """Exact scores of a split; see `part_scores`."""
    return part_scores(part, predictions(model, part, batch_size))


class TrainingProgress(keras.callbacks.Callback):
    """One bar per epoch of `batches`, only on a terminal, then one line with its scores; a resumed run has `skipped` some.

    Both have 80 columns at most: batches, time left, rows per second, log loss and AUC.
    """

    def __init__(self, console: Console, epochs: int, batches: int, batch_size: int, skipped: int = 0) -> None:
        super().__init__()
        self.console, self.epochs, self.batches, self.batch_size, self.skipped = console, epochs, batches, batch_size, skipped
        self._bar: Progress | None = None
        self._task: Any = None
        self._start = self._last = 0.0
        self._done = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._bar = bar(self.console, "")
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
            note = f"{self._rate(now):,.0f}/s {_scores(logs or {})}"
            self._bar.update(self._task, completed=self.skipped + self._done, note=note)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now, logs = time.perf_counter(), logs or {}
        self.on_train_end()
        line = f"epoch {epoch + 1}/{self.epochs} {self._rate(now):,.0f}/s train {_scores(logs)}"
        if "val_auc" in logs:
            line += f", valid {_scores(logs, 'val_')}"
        self.console.print(line, highlight=False, soft_wrap=True)
        self.skipped = 0

    def on_train_end(self, logs: Any = None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _rate(self, now: float) -> float:
        return self._done * self.batch_size / max(now - self._start, 1e-9)


def _scores(logs: Any, prefix: str = "") -> str:
    return " ".join(f"{label} {float(logs[prefix + name]):.4f}" for name, label in SHOWN if prefix + name in logs)


class Resume(keras.callbacks.Callback):
    """Checkpoints of everything that a run depends on.

    A checkpoint of `kd.checkpoint` holds tables, slots, dense parameters, step counters and random generators. A file alongside
    its folder, `resume.npz` for `resume`, names it and holds the rest: the place in the data, the metrics so far in the epoch,
    and what other callbacks remember. It is replaced when the checkpoint is whole, so a kill leaves the last whole pair.

    There are `steps` batches between two saves within an epoch. The end of an epoch is saved, too, unless the last save was less
    than `BETWEEN_SAVES` ago. `remembering` are callbacks with `state() → dict` and `restore(dict)`; so is `averaging`, whose
    arrays are in that file, too. After `restore` training continues at `epoch` and `batch`. `trained` counts the batches of ended
    epochs.
    """

    def __init__(
        self, directory: str | Path, steps: int, batches_per_epoch: int, remembering: list[Any],
        averaging: Averaging | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.averaging = averaging
        self.directory = Path(directory).absolute()
        self.path = self.directory.with_suffix(".npz")
        self.steps, self.batches_per_epoch = steps, batches_per_epoch
        self.remembering = remembering if averaging is None else [*remembering, averaging]
        self.epoch = self.batch = self.trained = 0
        self._first = 0  # batch of the present epoch in this run
        self._saved = -math.inf
        self._restored_metrics: list[np.ndarray] | None = None

    def restore(self, model: Any, example: tuple[Any, Any]) -> bool:
        """Load the last checkpoint into a compiled model, if there is one. Sets `epoch` and `batch`.

        `example` is a batch with labels, of which Keras makes metrics. `ValueError`: a damaged checkpoint, or another model's.
        """
        if not self.path.exists():
            return False
        check_archive(self.path, ("place.npy",))
        with np.load(self.path, allow_pickle=False) as saved:
            place = json.loads(str(saved["place"]))
            metrics, averages = ([saved[name] for name in _numbered(saved.files, kind)] for kind in ("metric", "average"))
        if "checkpoint" not in place:
            fix = "train into another folder, or overwrite the run."
            raise ValueError(f"{self.path} was written by an earlier release and is not read by this one; {fix}")
        model.test_on_batch(*example)
        model.reset_metrics()
        if read(state_of(model), self.directory, place["checkpoint"]) is None:
            raise ValueError(f"{self.path} names step {place['checkpoint']}, but {self.directory} has no checkpoint; train again.")
        self._restored_metrics = metrics
        self.epoch, self.batch, self.trained = place["epoch"], place["batch"], place["trained"]
        for callback, memory in zip(self.remembering, place["memories"], strict=True):
            callback.restore(memory)
        if self.averaging is not None:
            self.averaging.arrays = averages
        return True

    def clear(self) -> None:
        """Remove what was saved, once the run has ended."""
        self.path.unlink(missing_ok=True)
        clear(self.directory)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch
        if self._restored_metrics is not None and self.batch:
            # Keras has just reset the metrics; this epoch continues in its middle.
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
        self.trained += self.batch
        self.batch = 0
        if time.monotonic() - self._saved >= BETWEEN_SAVES:
            self._save(epoch + 1, 0)

    def _save(self, epoch: int, batch: int) -> None:
        model = self.model  # On JAX this brings the variables up to date.
        require_finite("train", model)  # The last whole checkpoint stays.
        step = epoch * self.batches_per_epoch + batch
        write(state_of(model), self.directory, step, {}, keep=None)
        memories = [callback.state() for callback in self.remembering]
        place = {"checkpoint": step, "epoch": epoch, "batch": batch, "trained": self.trained, "memories": memories}
        metrics = {f"metric_{i}": value_of(variable) for i, variable in enumerate(model.metrics_variables)}
        arrays = [] if self.averaging is None else self.averaging.arrays
        averages = {f"average_{i}": average for i, average in enumerate(arrays)}
        with whole(self.path) as written:
            np.savez(written, place=np.array(json.dumps(place)), **metrics, **averages)  # type: ignore[arg-type]
        clear(self.directory, step)
        self._saved = time.monotonic()


def _numbered(names: Sequence[str], kind: str) -> list[str]:
    """`kind_0`, `kind_1` … as far as there are some."""
    return [f"{kind}_{i}" for i in range(sum(name.startswith(f"{kind}_") for name in names))]
