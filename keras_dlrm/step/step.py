"""Hooks of a train step that the calls of a model go through, the same for every backend."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras

from keras_dlrm import backend
from keras_dlrm.backend.private_keras import OpenModel
from keras_dlrm.embeddings.host.cached_tables import CachedTables
from keras_dlrm.embeddings.inputs import Narrowing
from keras_dlrm.embeddings.row_access import RowAccess, prepared
from keras_dlrm.step.batch import WholeBatch
from keras_dlrm.step.checked import CheckedPyDataset


class Step(OpenModel):
    """Base of the train steps. `keras_dlrm.models` calls the hooks around `keras.Model`'s own methods, each at one place."""

    in_replicas: Any = False  # whether the model was built in the scope of a strategy with replicas
    py_dataset: Any = CheckedPyDataset
    # Functions of a step that Keras compiles.
    train_function: Any
    test_function: Any
    predict_function: Any

    def prepared(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `"fit"`, `"evaluate"` or `"predict"` with their data as the backend's loops shall read them."""
        return arguments

    def prepared_batch(self, x: Any, y: Any, sample_weight: Any, class_weight: Any) -> tuple[Any, Any, Any, Any]:
        """Arguments of `train_on_batch` and `test_on_batch`, as the backend's steps take them."""
        return x, y, sample_weight, class_weight

    def before_step(self, data: Any, training: bool) -> Any:
        """A batch right before its step, with the rows that its collections have made ready for it; see `BeforeStep`."""
        x, *rest = data if isinstance(data, (tuple, list)) else (data,)
        x = self._ready_inputs(self.collections_before_steps, x, training)
        return (x, *rest) if isinstance(data, (tuple, list)) else x

    def _ready_inputs(self, collections: Sequence[Any], x: Any, training: bool) -> Any:
        for collection in collections:
            x = collection.ready(x, RowAccess(collection, self.optimizer if self.compiled else None), training)
        return x

    def expect(self, data: Any) -> None:
        """Have host tables take note of a batch of a later step."""
        for store in self.host_tables:
            store.expect(keras.utils.unpack_x_y_sample_weight(data)[0])

    @property
    def host_tables(self) -> list[CachedTables]:
        """The stores of its collections that know what to do with batches of later steps."""
        return [c.store for c in self.collections_before_steps if isinstance(c.store, CachedTables)]

    @property
    def open_collections(self) -> list[Any]:
        """The collections with open vocabularies."""
        return [collection for collection in self.collections_before_steps if collection.open is not None]

    @property
    def collections_before_steps(self) -> list[Any]:
        """The collections whose rows may change before a step."""
        raise NotImplementedError

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # As a function a model looks up what is there: on the host, where ids have 64 bits on every backend.
        collections = [] if prepared.value else self.open_collections
        if not collections or not all(map(backend.is_concrete, keras.tree.flatten(inputs))):
            return super().__call__(inputs, *args, **kwargs)
        with prepared.using(True):
            return super().__call__(self._ready_inputs(collections, inputs, False), *args, **kwargs)

    def get_weights(self) -> list[Any]:
        """Arrays of all weights, and after them what the maps of open vocabularies know: a row is that of its id alone.

        Raises:
            ValueError: the model has host tables.
        """
        self._require_weights_here()
        return [*super().get_weights(), *(array for each in self.open_collections for array in each.open.state().values())]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Replace all that `get_weights` gives; `ValueError` where there is more or less, or the model has host tables."""
        self._require_weights_here()
        names = [(each, name) for each in self.open_collections for name in each.open.state()]
        first = max(0, len(weights) - len(names))
        super().set_weights(weights[:first])
        for collection in self.open_collections:
            own = zip(names, weights[first:], strict=True)
            collection.open.restore({name: array for (each, name), array in own if each is collection})

    def _require_weights_here(self) -> None:
        if self.host_tables:
            raise ValueError(
                f"{self.name}: get_weights and set_weights, also of callbacks such as EarlyStopping(restore_best_weights=True), "
                "know of host tables the cache alone; keep the best model as a checkpoint (kd.checkpoint.save)."
            )

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Open while one of Keras's loops or steps runs."""
        return contextlib.nullcontext()

    def logs_of_epoch(self, logs: Any) -> Any:
        counts = [collection.open.logs() for collection in self.open_collections]
        return {**super().logs_of_epoch(logs), **{name: n for each in counts for name, n in each.items()}}

    def check_compiled(self, metrics: list[Any]) -> None:
        """Raise where the model cannot be trained as it was compiled with these metrics."""

    def unpacked(self, data: Any) -> tuple[Any, Any, Any]:
        """x, y and sample weights of a step: of a replica's step, those of its part."""
        return keras.utils.unpack_x_y_sample_weight(data)  # type: ignore[no-any-return]

    def test_step(self, data: Any) -> Any:
        """Loss and metrics of a batch, without an update."""
        x, y, sample_weight = self.unpacked(data)
        part = self.part_of_step(x, sample_weight)
        loss, y_pred = self.loss_and_prediction(x, y, part, training=False)
        (loss,) = part.sum([part.share(loss)])
        return self.update_metrics(x, y, y_pred, part, loss)

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
        """Variables of layers that remember rows, such as moving means, and that processes keep identical."""
        raise NotImplementedError

    def part_of_step(self, x: Any, sample_weight: Any) -> WholeBatch:
        """This process's, or this replica's, part of a step's batch, loss and gradients."""
        raise NotImplementedError

    def loss_and_prediction(self, x: Any, y: Any, part: WholeBatch, training: bool) -> tuple[Any, Any]:
        """One forward pass: the loss, regularization included, and the prediction that metrics see."""
        raise NotImplementedError

    def update_metrics(self, x: Any, y: Any, y_pred: Any, part: WholeBatch, loss: Any) -> dict[str, Any]:
        """Add a batch, of which this process has a part, and the loss of the whole to the metrics; return their values."""
        raise NotImplementedError
