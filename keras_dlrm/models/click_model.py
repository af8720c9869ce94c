"""What every model here is: packed batches in, click probabilities out, trained from logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.embeddings.compression import QuotientRemainder
from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.initializers import new_seed
from keras_dlrm.models.sparse_model import SparseTraining
from keras_dlrm.schema import Schema

EMBEDDING_OPTIONS = ("quotient_remainder", "table_dtype")


class ClickModel(SparseTraining, keras.Model):
    """Base of the models: a packed batch (see `Schema`) → p(click), float32 (B, 1).

    `predict` gives probabilities; losses on probabilities (`"binary_crossentropy"`) are computed from the logits in
    float32, also under mixed precision. A subclass creates its layers, calls `finish(…)` and defines `logits`.

    Args:
        schema: A fitted `Schema`.
        seed: Seed of all initial weights and of dropout; the same seed gives the same weights on every backend.
    """

    def __init__(self, schema: Schema | Mapping[str, Any], seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.schema.require_fitted()
        self.seed = new_seed(seed)
        self.embeddings: EmbeddingCollection | None = None
        self._loss_on_logits = False
        self._out_of_range: keras.metrics.Metric | None = None
        self._count_out_of_range = False

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Packed batch → logits (B, 1)."""
        raise NotImplementedError

    def call(self, inputs: Mapping[str, Any], training: bool | None = None, return_logits: bool = False) -> Any:
        """Packed batch → p(click), float32 (B, 1), or its logits with `return_logits`."""
        self._check_inputs(inputs)
        logits = ops.cast(self.logits(inputs, training=training), "float32")
        return logits if return_logits else ops.sigmoid(logits)

    def _check_inputs(self, inputs: Any) -> None:
        names = self.schema.input_names
        if not isinstance(inputs, Mapping):
            raise TypeError(
                f"{self.name}: expected a packed batch (a dict with {list(names)}), not {type(inputs).__name__}."
            )
        for name in names:
            if name not in inputs:
                raise ValueError(f"{self.name}: the batch has {sorted(inputs)}, {name!r} is missing; use schema.pack.")
        if self.schema.dense and inputs["dense"].shape[-1] != self.schema.n_dense:
            raise ValueError(
                f"{self.name}: batch['dense'] has shape {tuple(inputs['dense'].shape)}; the schema needs "
                f"(B, {self.schema.n_dense})."
            )

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    # -- training ----------------------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "adagrad",
        loss: Any = "binary_crossentropy",
        metrics: Any = None,
        embedding_optimizer: Any = None,
        count_out_of_range: bool = False,
        **kwargs: Any,
    ) -> None:
        """Configure training.

        Args:
            optimizer: Optimizer of the dense parameters: a Keras optimizer, a rule of `kd.optimizers`, or a name.
                `"sgd"`, `"adagrad"`, `"rowwise_adagrad"` and `"adam"` are the rules of `kd.optimizers`.
            loss: Loss on p(click). Binary cross-entropy is computed from the logits.
            metrics: Metrics on p(click).
            embedding_optimizer: Row rule of the embedding tables; follows `optimizer` if omitted.
            count_out_of_range: Whether logs get `ids_out_of_range`: ids so far in the epoch that are neither padding
                nor in their column's vocabulary.
            **kwargs: As `keras.Model.compile` takes them.

        Raises:
            ValueError: no row rule follows `optimizer`, or an option is not defined on rows.
        """
        loss = _from_logits(loss)
        self._loss_on_logits = getattr(loss, "from_logits", False)
        if self._out_of_range is not None:
            self._tracker.untrack(self._out_of_range)  # else an earlier compile's counter would stay in the logs
        self._out_of_range = keras.metrics.Sum(name="ids_out_of_range") if count_out_of_range else None
        self._count_out_of_range = bool(count_out_of_range)
        super().compile(optimizer, loss, metrics, embedding_optimizer, **kwargs)

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        return None if config is None else {**config, "count_out_of_range": self._count_out_of_range}

    def loss_and_prediction(self, x: Any, y: Any, sample_weight: Any, training: bool) -> tuple[Any, Any]:
        """One forward pass: the loss, regularisation included, and p(click)."""
        logits = self(x, training=training, return_logits=True)
        y_pred = ops.sigmoid(logits)
        loss = self.compute_loss(
            x=x, y=y, y_pred=logits if self._loss_on_logits else y_pred, sample_weight=sample_weight, training=training
        )
        return loss, y_pred

    def update_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, loss: Any) -> dict[str, Any]:
        if self._out_of_range is not None and self.embeddings is not None:
            self._out_of_range.update_state(self.embeddings.count_out_of_range(x))
        return super().update_metrics(x, y, y_pred, sample_weight, loss)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss, regularisation included.

        Raises:
            ValueError: no labels, or more than one per row.
        """
        if y is None:
            raise ValueError(f"{self.name}: there are no labels; give fit and evaluate (batch, labels) or x=… and y=….")
        shape: Any = getattr(y, "shape", ())
        # TensorFlow does not know the rank where a model has seen labels of both forms.
        if getattr(shape, "rank", 0) is not None and (len(shape) > 2 or tuple(shape[1:]) not in ((), (1,), (None,))):
            raise ValueError(f"{self.name}: the labels have shape {tuple(shape)}; they must be (B,) or (B, 1).")
        return super().compute_loss(x, _shaped(y, (-1, 1)), y_pred, _shaped(sample_weight, (-1,)), training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        return super().compute_metrics(x, _shaped(y, (-1, 1)), y_pred, _shaped(sample_weight, (-1,)))

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """p(click), float32 (B, 1), as `keras.Model.predict`; also of a batch without rows."""
        if isinstance(x, Mapping) and x and all(np.ndim(v) and len(v) == 0 for v in x.values()):
            return np.zeros((0, 1), np.float32)
        return super().predict(x, *args, **kwargs)

    # -- tables ------------------------------------------------------------------------------------------------------

    def embedding_tables(self) -> dict[str, np.ndarray]:
        """Logical tables: name → float32 (rows, D), copies in schema order."""
        return {} if self.embeddings is None else self.embeddings.embedding_tables()

    def set_embedding_tables(self, tables: Mapping[str, Any]) -> None:
        """Replace the rows of the named tables; see `EmbeddingCollection.set_embedding_tables`."""
        if self.embeddings is None:
            raise ValueError(f"{self.name}: the schema has no categorical column, so there are no tables.")
        self.embeddings.set_embedding_tables(tables)

    def _seed_states(self) -> list[Any]:
        weights = {id(v) for v in self.weights}
        return [v for v in self.non_trainable_variables if id(v) not in weights]

    def save_own_variables(self, store: Any) -> None:
        # Keras does not save the state of dropout's generators, without which a run does not resume exactly.
        for i, state in enumerate(self._seed_states()):
            store[f"seed_{i}"] = ops.convert_to_numpy(state.value)

    def load_own_variables(self, store: Any) -> None:
        saved = set(store.keys())
        for i, state in enumerate(self._seed_states()):
            if f"seed_{i}" in saved:  # absent where a model without dropout was saved
                state.assign(store[f"seed_{i}"])

    def get_config(self) -> dict[str, Any]:
        config = {"name": self.name, "schema": self.schema.to_dict(), "seed": self.seed, "dtype": self._dtype_config()}
        frozen = [layer.name for layer in self.layers if not layer.trainable]
        return {**config, "frozen": frozen} if frozen else config

    def _dtype_config(self) -> Any:
        return keras.dtype_policies.serialize(self.dtype_policy)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ClickModel:
        config = dict(config)
        frozen = config.pop("frozen", ())
        model = cls(**config)
        for layer in model.layers:
            if layer.name in frozen:
                layer.trainable = False
        return model


def options(embedding_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Further arguments of a model's `EmbeddingCollection`, as plain dictionaries.

    Raises:
        TypeError: no mapping.
        ValueError: an unknown one, or one that the model gives itself.
    """
    if embedding_options is None:
        return {}
    if not isinstance(embedding_options, Mapping):
        raise TypeError(f"embedding_options={embedding_options!r} must be a mapping of {list(EMBEDDING_OPTIONS)}.")
    for name in embedding_options:
        if name not in EMBEDDING_OPTIONS:
            raise ValueError(f"embedding_options: unknown option {name!r}; known are {list(EMBEDDING_OPTIONS)}.")
    found = dict(embedding_options)
    if found.get("quotient_remainder") is not None:
        found["quotient_remainder"] = dataclasses.asdict(QuotientRemainder.of(found["quotient_remainder"]))
    return found


def _shaped(values: Any, shape: tuple[int, ...]) -> Any:
    """Labels → (B, 1), sample weights → (B,): not every Keras metric takes either form of both.

    Without a look at their rank: TensorFlow does not know it where a model has seen both forms.
    """
    return None if values is None else ops.reshape(values, shape)


def _from_logits(loss: Any) -> Any:
    """A loss on probabilities → the same loss on logits, where there is one."""
    if isinstance(loss, (list, tuple)) and len(loss) == 1:
        loss = loss[0]
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", None)
    if name in ("binary_crossentropy", "BinaryCrossentropy", "bce", "BCE"):
        return keras.losses.BinaryCrossentropy(from_logits=True)
    if isinstance(loss, (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)):
        config = {**loss.get_config(), "from_logits": True}
        return type(loss).from_config(config)
    return loss
