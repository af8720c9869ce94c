"""Averages of a model's weights over its last steps, which are scored and saved in their place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

# Steps between two updates of the average within an epoch: tables are read as a whole for each.
EVERY = 16


class Averaging(keras.callbacks.Callback):
    """An exponential moving average of all weights, updated every 16 steps and at the end of an epoch; its first steps count less.

    Averages of weights along a run are better and better calibrated than the last ones (Polyak and Juditsky 1992; Izmailov et al.
    2018, "Averaging Weights Leads to Wider Optima and Better Generalization").

    Args:
        decay: Share of the average that a step leaves, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.updates, self._waited = 0, 0
        self._averages: list[Any] = []

    def state(self) -> dict[str, Any]:
        """Values that a resumed run needs, besides `arrays`; `restore` takes them."""
        return {"updates": self.updates, "waited": self._waited}

    def restore(self, memory: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.updates, self._waited = memory["updates"], memory["waited"]

    @property
    def arrays(self) -> list[np.ndarray]:
        """The averages, in the order of the model's trainable variables; none before the first update."""
        return [ops.convert_to_numpy(average) for average in self._averages]

    @arrays.setter
    def arrays(self, values: list[np.ndarray]) -> None:
        self._averages = [ops.convert_to_tensor(value) for value in values]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._waited += 1
        if self._waited == EVERY:
            self._update()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Else an epoch of a few steps would be scored like the one before, and patience would end the run.
        if self._waited:
            self._update()

    def _update(self) -> None:
        steps, self._waited = self._waited, 0
        self.updates += 1
        # At first the average is that of all updates so far.
        keep = min(self.decay**steps, (self.updates - 1) / (self.updates + 1))
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
