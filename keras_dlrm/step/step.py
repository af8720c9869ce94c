"""Hooks of a train step that the calls of a model go through, the same for every backend."""

from __future__ import annotations

import contextlib
from typing import Any

from keras_dlrm.backend.private_keras import OpenModel
from keras_dlrm.embeddings.narrowing import Narrowing
from keras_dlrm.step.batch import WholeBatch
from keras_dlrm.step.checked import CheckedPyDataset


class Step(OpenModel):
    """Base of the train steps. `keras_dlrm.models` calls the hooks around `keras.Model`'s own methods, each at one place.

    Attributes:
        in_replicas: Whether the model was built in the scope of a strategy with replicas.
        py_dataset: Adapter of a `PyDataset`.
    """

    in_replicas: Any = False
    py_dataset: Any = CheckedPyDataset
    # Functions of a step that Keras compiles.
    train_function: Any
    test_function: Any
    predict_function: Any

    # -- hooks of the backends ---------------------------------------------------------------------------------------

    def prepared(self, call: str, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `"fit"`, `"evaluate"` or `"predict"` with their data as the backend's loops shall read them."""
        return given

    def prepared_batch(self, x: Any, y: Any, sample_weight: Any, class_weight: Any) -> tuple[Any, Any, Any, Any]:
        """Arguments of `train_on_batch` and `test_on_batch`, as the backend's steps take them."""
        return x, y, sample_weight, class_weight

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Open while one of Keras's loops or steps runs."""
        return contextlib.nullcontext()

    def check_compiled(self, metrics: list[Any]) -> None:
        """Raise where the model cannot be trained as it was compiled with these metrics."""

    # -- what the models say -----------------------------------------------------------------------------------------

    @property
    def narrowing(self) -> Narrowing:
        """Makes int32 of the ids that this model's collections read."""
        raise NotImplementedError

    @property
    def sharded(self) -> bool:
        """Whether a plan shards its tables, so that all processes take part in each step."""
        raise NotImplementedError

    @property
    def kept_of_rows(self) -> list[Any]:
        """Variables in which layers keep something of the rows they saw, such as moving means, and that processes keep alike."""
        raise NotImplementedError

    def part_of_step(self, x: Any, sample_weight: Any) -> WholeBatch:
        """This process's, or this replica's, part of a step's batch, loss and gradients."""
        raise NotImplementedError

    def loss_and_prediction(self, x: Any, y: Any, sample_weight: Any, training: bool) -> tuple[Any, Any]:
        """One forward pass: the loss, regularization included, and the prediction that metrics see."""
        raise NotImplementedError

    def update_metrics(self, x: Any, y: Any, y_pred: Any, part: WholeBatch, loss: Any) -> dict[str, Any]:
        """Add a batch to the metrics and return their values."""
        raise NotImplementedError
