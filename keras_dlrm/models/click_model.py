"""`ClickModel`, the base of all models here: packed batches in, click probabilities out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import keras
import numpy as np
from keras import ops

from keras_dlrm.backend.private_keras import forget
from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.inputs import of_width
from keras_dlrm.embeddings.not_finite import is_finite
from keras_dlrm.embeddings.sparse_core.tpu_embedding import PREPROCESSED, TPUEmbedding
from keras_dlrm.initializers import new_seed
from keras_dlrm.layers.first_order import split_first_order
from keras_dlrm.metrics.streaming import Count
from keras_dlrm.models.labels import Checks
from keras_dlrm.models.losses import from_logits, gives_logits, logits_of
from keras_dlrm.models.saved import freeze, refuse_hdf5_in_writing, with_frozen
from keras_dlrm.models.sparse_model import SparseTraining
from keras_dlrm.schema.schema import Schema
from keras_dlrm.step.batch import WholeBatch


class ClickModel(SparseTraining):
    """Base of the models: a packed batch (see `Schema`) → p(click), float32 (B, 1).

    `predict` gives probabilities; losses on probabilities (`"binary_crossentropy"`) are computed from the logits in
    float32, also under mixed precision. A subclass makes its layers in `__init__` and defines `logits`; see docs/own-models.md.
    Its own arguments, which must be plain values, are saved with it unless it sets `_config`, a dict of them. Layers that it does
    not build are built when it is first called, or loaded.

    Args:
        schema: A fitted `Schema`.
        seed: Seed of all initial weights and of dropout; the same seed gives the same weights on every backend.
    """

    exported_by_us = True
    default_loss = "binary_crossentropy"
    prediction_of_no_rows = np.zeros((0, 1), np.float32)
    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> ClickModel:
        model = super().__new__(cls, *args, **kwargs)
        # Not by `setattr`, which Keras has track layers that there are not yet.
        vars(model)["_arguments"] = _own_arguments(cls, args, kwargs)
        return cast(ClickModel, model)

    def __init__(self, schema: Schema | Mapping[str, Any], seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.schema.require_fitted()
        self.seed = new_seed(seed)
        self.embeddings: EmbeddingCollection | None = None
        self.embedding_dropout: keras.layers.Dropout | None = None
        self.first_order = False
        self._config: dict[str, Any] = {}
        self._out_of_range: keras.metrics.Metric | None = None
        self._count_out_of_range = False

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Packed batch → logits (B, 1)."""
        raise NotImplementedError

    def pooled(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Packed batch → vectors of the tables, after their dropout."""
        return self.pooled_vectors(inputs, training)[0]

    def pooled_vectors(self, inputs: Mapping[str, Any], training: bool | None = None) -> tuple[Any, Any]:
        """Packed batch → vectors (B, F, D) of the tables, and the first-order terms (B, 1) of the logit, if there are."""
        vectors, first_order = self.embeddings(inputs), None  # type: ignore[misc]
        if self.first_order:
            vectors, first_order = split_first_order(vectors)
            vectors = ops.cast(vectors, self.compute_dtype)
        if self.embedding_dropout is not None:
            vectors = self.embedding_dropout(vectors, training=training)
        return vectors, first_order

    def call(self, inputs: Mapping[str, Any], training: bool | None = None, return_logits: bool = False) -> Any:
        """Packed batch → p(click), float32 (B, 1), or its logits with `return_logits`.

        A row with a dense feature of NaN or infinity gets NaN, and so does one whose ids have such a weight.
        """
        inputs = self._checked_inputs(inputs)
        logits = ops.cast(self.logits(inputs, training=training), "float32")
        if self.schema.dense:
            # A ReLU makes 0 of minus infinity, and so a plausible probability of a row that has none. Not a product of the
            # features with 0: that is optimized away.
            finite = ops.all(is_finite(ops.cast(inputs["dense"], "float32")), axis=1, keepdims=True)
            logits = ops.where(finite, logits, float("nan"))
        return logits if return_logits else ops.sigmoid(logits)

    def _checked_inputs(self, inputs: Any) -> dict[str, Any]:
        names = self.schema.input_names
        if not isinstance(inputs, Mapping):
            raise TypeError(f"{self.name}: expected a packed batch (a dict with {list(names)}), not {type(inputs).__name__}.")
        for name in names:
            if name not in inputs:
                raise ValueError(f"{self.name}: the batch has {sorted(inputs)}, {name!r} is missing; use schema.pack.")
        for name in inputs:
            if name == PREPROCESSED and isinstance(self.embeddings, TPUEmbedding):
                continue
            if name not in names:
                fix = "set weighted=True in the schema, or leave it out" if name == "weights" else "leave it out"
                raise ValueError(f"{self.name}: the batch has {name!r}, but the schema needs {list(names)}; {fix}.")
        widths = {"dense": self.schema.n_dense, "sparse": self.schema.width, "weights": self.schema.width}
        return {n: of_width(f"{self.name}: ", n, x, widths[n]) if n in names else x for n, x in inputs.items()}

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    # -- training ----------------------------------------------------------------------------------------------------

    def loss_to_compute(self, loss: Any) -> tuple[Any, Any]:
        if isinstance(loss, (list, tuple)) and len(loss) == 1:
            loss = loss[0]
        return loss, from_logits(loss)

    def count_ids(self, count_out_of_range: bool) -> None:
        if self._out_of_range is not None:
            forget(self, self._out_of_range)  # else an earlier compile's counter would stay in the logs
        self._out_of_range = Count("ids_out_of_range") if count_out_of_range else None
        self._count_out_of_range = bool(count_out_of_range)

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        return {**config, "count_out_of_range": self._count_out_of_range} if config else config

    def loss_and_prediction(self, x: Any, y: Any, part: WholeBatch, training: bool) -> tuple[Any, Any]:
        if not gives_logits(type(self).call):
            return super().loss_and_prediction(x, y, part, training)
        logits = self(x, training=training, return_logits=True)
        y_pred = ops.sigmoid(logits)
        with logits_of(y_pred, logits):
            return self.loss_of_step(x, y, y_pred, part.sample_weight, training), y_pred

    def update_metrics(self, x: Any, y: Any, y_pred: Any, part: WholeBatch, loss: Any) -> dict[str, Any]:
        if self._out_of_range is not None and self.embeddings is not None:
            self._out_of_range.update_state(part.sum([self.embeddings.count_out_of_range(x)])[0])
        return super().update_metrics(x, y, y_pred, part, loss)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss, regularization included.

        Raises:
            ValueError: no labels, or more than one per row.
        """
        self._check_labels(y)
        return super().compute_loss(x, _shaped(y, (-1, 1)), y_pred, _shaped(sample_weight, (-1,)), training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        self._check_labels(y)  # JAX and torch build the metrics before they compute a loss.
        return dict(super().compute_metrics(x, _shaped(y, (-1, 1)), y_pred, _shaped(sample_weight, (-1,))))

    def _checked(self, arguments: dict[str, Any], checks: Checks) -> dict[str, Any]:
        arguments = super()._checked(arguments, checks)
        self._check_outputs(arguments["y"], arguments["sample_weight"])
        return arguments

    def _checked_batch(self, who: str, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        x, y, sample_weight = super()._checked_batch(who, x, y, sample_weight)
        self._check_outputs(y, sample_weight)
        return x, y, sample_weight

    def _check_outputs(self, y: Any, sample_weight: Any) -> None:
        """Before a step is compiled: TensorFlow's does not know the shape, and Keras says nothing of dicts."""
        for what, values in (("labels", y), ("sample weights", sample_weight)):
            if isinstance(values, Mapping):
                raise TypeError(f"{self.name}: the {what} are a dict with {list(values)}; give the array, as there is one output.")
        if y is not None:
            self._check_labels(y)

    def _check_labels(self, y: Any) -> None:
        if y is None:
            raise ValueError(f"{self.name}: there are no labels; give fit and evaluate (batch, labels) or x=… and y=….")
        shape: Any = getattr(y, "shape", ())
        # TensorFlow does not know the rank where a model has seen labels of both forms.
        if getattr(shape, "rank", 0) is not None and (len(shape) > 2 or tuple(shape[1:]) not in ((), (1,), (None,))):
            raise ValueError(f"{self.name}: the labels have shape {tuple(shape)}; they must be (B,) or (B, 1).")

    # -- tables ------------------------------------------------------------------------------------------------------

    def embedding_tables(self) -> dict[str, np.ndarray]:
        """Logical tables: name → float32 (rows, D), copies in schema order."""
        return {} if self.embeddings is None else self.embeddings.embedding_tables()

    def set_embedding_tables(self, tables: Mapping[str, Any]) -> None:
        """Replace the rows of the named tables; see `EmbeddingCollection.set_embedding_tables`."""
        if self.embeddings is None:
            raise ValueError(f"{self.name}: the schema has no categorical column, so there are no tables.")
        self.embeddings.set_embedding_tables(tables)

    def seed_states(self) -> list[Any]:
        """The states of generators of random numbers, such as dropout's."""
        weights = {id(v) for v in self.weights}
        return [v for v in self.non_trainable_variables if id(v) not in weights]

    def save_own_variables(self, store: Any) -> None:
        # Keras does not save the state of dropout's generators, without which a run does not resume exactly.
        for i, state in enumerate(self.seed_states()):
            store[f"seed_{i}"] = ops.convert_to_numpy(state.value)

    def load_own_variables(self, store: Any) -> None:
        saved = set(store.keys())
        for i, state in enumerate(self.seed_states()):
            if f"seed_{i}" in saved:  # absent where a model without dropout was saved
                state.assign(store[f"seed_{i}"])

    def get_config(self) -> dict[str, Any]:
        refuse_hdf5_in_writing()
        config = {"name": self.name, "schema": self.schema.to_dict(), "seed": self.seed}
        config["dtype"] = keras.dtype_policies.serialize(self.dtype_policy)
        return with_frozen({**config, **self._arguments, **self._config}, self)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ClickModel:
        config = dict(config)
        frozen = config.pop("frozen", {})
        model = cls(**config)
        if not model.built:
            # Layers that are built by a call alone: by a symbolic one, which looks nothing up.
            kinds = {name: "int32" if name == "sparse" else "float32" for name in model.schema.input_names}
            widths = {"dense": model.schema.n_dense, "sparse": model.schema.width, "weights": model.schema.width}
            model.compute_output_spec({n: keras.KerasTensor((None, widths[n]), kind) for n, kind in kinds.items()})
            model.built = True
        freeze(model, frozen)
        return model


def _own_arguments(cls: type[ClickModel], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Values, by name, of the parameters that a class's own `__init__` adds to those of `ClickModel`."""
    known = {*inspect.signature(ClickModel.__init__).parameters, "name", "dtype", "trainable"}
    try:
        bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
    except TypeError:  # `__init__` says it better
        return {}
    bound.apply_defaults()
    named = (p.name for p in bound.signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return {name: bound.arguments[name] for name in named if name not in known}


def _shaped(values: Any, shape: tuple[int, ...]) -> Any:
    """Labels → (B, 1), sample weights → (B,): not every Keras metric takes either form of both.

    Without a look at their rank: TensorFlow does not know it where a model has seen both forms.
    """
    return None if values is None else ops.reshape(values, shape)
