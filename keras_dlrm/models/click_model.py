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
from keras_dlrm.embeddings.inputs import check_array, input_widths, of_width
from keras_dlrm.embeddings.not_finite import is_finite
from keras_dlrm.embeddings.sparse_core.tpu_embedding import PREPROCESSED, TPUEmbedding
from keras_dlrm.initializers import ReferenceBias, ReferenceKernel, new_seed, part_seed
from keras_dlrm.layers.first_order import split_first_order
from keras_dlrm.layers.id_dropout import IdDropout
from keras_dlrm.layers.mlp import HeadedMLP, MLPOptions, TopMLP
from keras_dlrm.layers.task_head import TaskOptions, tasks_of
from keras_dlrm.metrics.streaming import Count
from keras_dlrm.models.labeled_model import LabeledModel
from keras_dlrm.models.saved import freeze, refuse_hdf5_in_writing, with_frozen
from keras_dlrm.schema.schema import Schema
from keras_dlrm.step.batch import WholeBatch


class ClickModel(LabeledModel):
    """Base of the models: a packed batch (see `Schema`) → p(click), float32 (B, 1); of T labels (B, T), in the schema's order.

    `predict` gives probabilities; losses on probabilities (`"binary_crossentropy"`) are computed from the logits in
    float32, also under mixed precision. A subclass makes its layers in `__init__` and defines `logits`; see docs/own-models.md.
    Its own arguments, which must be plain values, are saved with it unless it sets `_config`, a dict of them. Layers that it does
    not build are built when it is first called, or loaded.

    Args:
        schema: A fitted `Schema`.
        seed: Seed of all initial weights and of dropout; the same seed gives the same weights on every backend.
        tasks: Where the schema has several labels, what takes the place of the last layer, such as `kd.tasks.MMoE()`; by default
            one unit for each label.

    Raises:
        ValueError: `tasks` without several labels, or in a model without a last layer that it could replace.
    """

    #: Whether there can be several labels.
    several_labels = True
    #: Whether `tasks` can take the place of the last layer, which the model makes by `last_layer` or `last_network`.
    takes_tasks = False

    exported_by_us = True
    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> ClickModel:
        model = super().__new__(cls, *args, **kwargs)
        # Not by `setattr`, which Keras has track layers that there are not yet.
        vars(model)["_arguments"] = _own_arguments(cls, args, kwargs)
        return cast(ClickModel, model)

    def __init__(
        self, schema: Schema | Mapping[str, Any], seed: int | None = None, tasks: TaskOptions | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.schema.require_fitted()
        self.tasks = None if tasks is None else tasks_of(tasks)
        self._check_tasks()
        self.prediction_of_no_rows = np.zeros((0, self.n_labels), np.float32)
        self.seed = new_seed(seed)
        self.embeddings: EmbeddingCollection | None = None
        self.embedding_dropout: keras.layers.Dropout | None = None
        self.id_dropout: IdDropout | None = None
        if any(column.id_dropout for column in self.schema.categorical):
            self.id_dropout = IdDropout(self.schema, part_seed(self.seed, 7), name="id_dropout")
        self.first_order = False
        self._config: dict[str, Any] = {}
        self._out_of_range: keras.metrics.Metric | None = None
        self._count_out_of_range = False

    def _check_tasks(self) -> None:
        who, labels = type(self).__name__, list(self.schema.labels)
        if self.n_labels > 1 and not self.several_labels:
            fix = "take a model that has one, such as DeepFM or DCNv2, or one label (schema.with_label)"
            raise ValueError(f"{who}: the schema has the labels {labels}, and no last layer gives a logit for each; {fix}.")
        if self.tasks is not None and self.n_labels == 1:
            raise ValueError(f"{who}: tasks={self.tasks} needs several labels, and the schema has {labels[0]!r} alone.")
        if self.tasks is not None and not self.takes_tasks:
            raise ValueError(f"{who}: tasks={self.tasks} would replace a last layer, which this model does not have; leave it out.")

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Packed batch → logits (B, T)."""
        raise NotImplementedError

    def logit_layer(self, n: int, part: int, name: str) -> keras.layers.Dense:
        """A linear layer (B, n) → float32 (B, T), built; `part` numbers the layers of the model, for their seeds."""
        seed = part_seed(self.seed, part)
        kernel, bias = ReferenceKernel([seed, 0]), ReferenceBias([seed, 1])
        options = {"kernel_initializer": kernel, "bias_initializer": bias, "dtype": "float32", "name": name}
        layer = keras.layers.Dense(self.n_labels, **options)
        layer.build((None, n))
        return layer

    def last_layer(self, n: int, part: int, name: str, mlp: MLPOptions | None = None) -> Any:
        """The last layer, (B, n) → logits, float32 (B, T), built: linear, or a head of `tasks` with networks as `mlp` says."""
        if self.tasks is None:
            return self.logit_layer(n, part, name)
        layer = self._head(part, name, mlp or MLPOptions(()))
        layer.build((None, n))
        return layer

    def last_network(self, n: int, mlp: MLPOptions, part: int, name: str) -> Any:
        """Hidden layers as `mlp` says and the last layer behind them, (B, n) → logits, float32 (B, T), built."""
        options = {**vars(mlp), "seed": part_seed(self.seed, part), "dtype": self.dtype_policy, "name": name}
        layer: Any
        if self.tasks is None:
            layer = TopMLP(**{**options, "units": [*mlp.units, self.n_labels]})
        else:
            layer = self._head(part, "head" if mlp.units else name, mlp)
            layer = HeadedMLP(layer, **options) if mlp.units else layer
        layer.build((None, n))
        return layer

    def _head(self, part: int, name: str, mlp: MLPOptions) -> Any:
        seed = part_seed(self.seed, part, 1)
        return self.tasks.layer(self.n_labels, mlp, seed=seed, dtype=self.dtype_policy, name=name)  # type: ignore[union-attr]

    def pooled(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Packed batch → vectors of the tables, after their dropout."""
        return self.pooled_vectors(inputs, training)[0]

    def pooled_vectors(self, inputs: Mapping[str, Any], training: bool | None = None) -> tuple[Any, Any]:
        """Packed batch → vectors (B, F, D) of the tables, and the first-order terms (B, T) of the logits, if there are."""
        if self.id_dropout is not None and training:
            inputs = self.id_dropout(inputs, training=True)
        vectors, first_order = self.embeddings(inputs), None  # type: ignore[misc]
        if self.first_order:
            vectors, first_order = split_first_order(vectors, self.n_labels)
            vectors = ops.cast(vectors, self.compute_dtype)
        if self.embedding_dropout is not None:
            vectors = self.embedding_dropout(vectors, training=training)
        return vectors, first_order

    def call(self, inputs: Mapping[str, Any], training: bool | None = None, return_logits: bool = False) -> Any:
        """Packed batch → p(click), float32 (B, T) of T labels, or its logits with `return_logits`.

        A row with a dense feature of NaN or infinity gets NaN, and so does one whose ids have such a weight.
        """
        inputs = self._checked_inputs(inputs)
        logits = ops.cast(self.logits(inputs, training=training), "float32")
        if logits.shape[-1] != self.n_labels:
            wanted = f"(B, {self.n_labels}), one for each of {list(self.schema.labels)}"
            raise ValueError(f"{self.name}: logits have shape {tuple(logits.shape)}; they must be {wanted}.")
        if self.schema.dense:
            # A ReLU makes 0 of minus infinity, and so a plausible probability of a row that has none. Not a product of the
            # features with 0: that is optimized away.
            finite = ops.all(is_finite(ops.cast(inputs["dense"], "float32")), axis=1, keepdims=True)
            logits = ops.where(finite, logits, float("nan"))
        return logits if return_logits else ops.sigmoid(logits)

    def _checked_inputs(self, inputs: Any) -> dict[str, Any]:
        if not isinstance(inputs, Mapping):
            names = list(self.schema.input_names)
            raise TypeError(f"{self.name}: expected a packed batch (a dict with {names}), not {type(inputs).__name__}.")
        self._check_names(inputs)
        widths = input_widths(self.schema)
        return {n: of_width(f"{self.name}: ", n, x, widths[n]) if n in widths else x for n, x in inputs.items()}

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        names = self.schema.input_names
        for name in names:
            if name not in inputs:
                raise ValueError(f"{self.name}: the batch has {sorted(inputs)}, {name!r} is missing; use schema.pack.")
        for name in inputs:
            if name == PREPROCESSED and isinstance(self.embeddings, TPUEmbedding):
                continue
            if name not in names:
                fix = "set weighted=True in the schema, or leave it out" if name == "weights" else "leave it out"
                raise ValueError(f"{self.name}: the batch has {name!r}, but the schema needs {list(names)}; {fix}.")

    def check_arrays(self, who: str, x: Mapping[str, Any]) -> None:
        # As `call` does, whose errors Keras surrounds with all that the model was called with.
        self._check_names(x)
        for name, width in input_widths(self.schema).items():
            check_array(f"{self.name}: ", name, x[name], width)

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    # -- training ----------------------------------------------------------------------------------------------------

    def count_ids(self, count_out_of_range: bool) -> None:
        if self._out_of_range is not None:
            forget(self, self._out_of_range)  # else an earlier compile's counter would stay in the logs
        self._out_of_range = Count("ids_out_of_range") if count_out_of_range else None
        self._count_out_of_range = bool(count_out_of_range)

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        return {**config, "count_out_of_range": self._count_out_of_range} if config else config

    def update_metrics(self, x: Any, y: Any, y_pred: Any, part: WholeBatch, loss: Any) -> dict[str, Any]:
        if self._out_of_range is not None and self.embeddings is not None:
            self._out_of_range.update_state(part.sum([self.embeddings.count_out_of_range(x)])[0])
        return super().update_metrics(x, y, y_pred, part, loss)

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
        super().save_own_variables(store)  # weights of the model itself, by number
        # Keras does not save the state of dropout's generators, without which a run does not resume exactly.
        for i, state in enumerate(self.seed_states()):
            store[f"seed_{i}"] = ops.convert_to_numpy(state.value)

    def load_own_variables(self, store: Any) -> None:
        saved = set(store.keys())
        super().load_own_variables({name: store[name] for name in saved if not name.startswith("seed_")})
        for i, state in enumerate(self.seed_states()):
            if f"seed_{i}" in saved:  # absent where a model without dropout was saved
                state.assign(store[f"seed_{i}"])

    def get_config(self) -> dict[str, Any]:
        refuse_hdf5_in_writing()
        config = {"name": self.name, "schema": self.schema.to_dict(), "seed": self.seed}
        config |= {} if self.tasks is None else {"tasks": self.tasks.config()}
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
