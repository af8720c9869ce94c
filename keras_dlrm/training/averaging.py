"""Averages of a model's weights over its last steps, which are scored and saved in their place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.files.durable import whole

# Steps between two updates of the average: tables are read as a whole for each.
EVERY = 16


class Averaging(keras.callbacks.Callback):
    """An exponential moving average of all weights, updated every 16 steps; its first steps count less.

    Averages of weights along a run are better and better calibrated than the last ones (Polyak and Juditsky 1992; Izmailov et al.
    2018, "Averaging Weights Leads to Wider Optima and Better Generalization").

    Args:
        decay: Share of the average that a step leaves, in (0, 1).
        path: File for the averages of a run that was stopped, `.npz`.
    """

    def __init__(self, decay: float, path: str | Path) -> None:
        super().__init__()
        self.decay, self.path = decay, Path(path)
        self.updates, self._waited = 0, 0
        self._averages: list[Any] = []

    def state(self) -> dict[str, Any]:
        """Values that a resumed run needs; `restore` takes them. The averages themselves are written to `path`."""
        with whole(self.path) as written:
            arrays = {f"average_{i}": ops.convert_to_numpy(average) for i, average in enumerate(self._averages)}
            np.savez(written, **arrays)  # type: ignore[arg-type]
        return {"updates": self.updates, "waited": self._waited}

    def restore(self, memory: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.updates, self._waited = memory["updates"], memory["waited"]
        with np.load(self.path, allow_pickle=False) as saved:
            self._averages = [ops.convert_to_tensor(saved[f"average_{i}"]) for i in range(len(saved.files))]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._waited += 1
        if self._waited < EVERY:
            return
        self._waited = 0
        self.updates += 1
        # At first the average is that of all updates so far.
        keep = min(self.decay**EVERY, (self.updates - 1) / (self.updates + 1))
        values = [ops.convert_to_tensor(ops.cast(variable.value, "float32")) for variable in self.model.trainable_variables]
        if not self._averages:
            self._averages = [ops.copy(value) for value in values]
        else:
            self._averages = [a * keep + v * (1.0 - keep) for a, v in zip(self._averages, values, strict=True)]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While this context is open, the model has the averages."""
        if not self._averages:
            yield
            return
        variables = self.model.trainable_variables
        kept = [ops.copy(variable.value) for variable in variables]
        for variable, average in zip(variables, self._averages, strict=True):
            variable.assign(ops.cast(ops.copy(average), variable.dtype))  # a step on JAX deletes what it is given
        try:
            yield
        finally:
            for variable, value in zip(variables, kept, strict=True):
                variable.assign(value)
