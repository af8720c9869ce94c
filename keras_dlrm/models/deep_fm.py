"""Wide & Deep and DeepFM: terms of first order beside a deep network, without and with a factorization machine."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.options import EmbeddingOptions
from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.concatenation import ConcatenationInteraction
from keras_dlrm.layers.factorization_machine import FactorizationMachine
from keras_dlrm.layers.mlp import MLPOptions, TopMLP
from keras_dlrm.models.field_model import FieldModel
from keras_dlrm.schema.schema import Schema


@keras.saving.register_keras_serializable("keras_dlrm")
class WideDeep(FieldModel):
    """logit = bias + Σ weights of the row's values + deep network of all vectors side by side.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        deep_mlp: Widths of the deep network's hidden layers.
        activation: Activation of the deep network.
        dropout: Share of activations dropped after each hidden layer.
        batch_norm: Whether the deep network normalizes before each activation.
        kernel_l2: L2 factor of its kernels.
        embedding_dropout: Share of the pooled vectors' elements dropped.
        init_scale: Half-width of the tables' initial uniform distribution; √(1/rows) per table if omitted.
        embedding_options: Further arguments of `EmbeddingCollection`: `quotient_remainder`, `table_dtype`; `tpu`: those
            of a `TPUEmbedding` in its place.
        seed: Seed of all initial weights and of dropout.

    Source: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems".

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> WideDeep(schema, embedding_dim=4, deep_mlp=[8]).count_params()
    141
    """

    second_order = False

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, deep_mlp: Sequence[int] = (400, 400, 400),
        activation: Any = "relu", dropout: float = 0.0, batch_norm: bool = False, kernel_l2: float = 0.0,
        embedding_dropout: float = 0.0, init_scale: float | None = None, embedding_options: Mapping[str, Any] | None = None,
        seed: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        who = type(self).__name__
        tables = EmbeddingOptions(embedding_dim, embedding_dropout, init_scale, embedding_options, True, who=who)
        deep = MLPOptions([*deep_mlp, 1], activation, dropout, batch_norm, kernel_l2, who=who, field="deep_mlp")
        super().__init__(schema, tables, seed, **kwargs)
        dtype = self.dtype_policy
        self.side_by_side = ConcatenationInteraction(dtype=dtype, name="side_by_side")
        self.deep_mlp = TopMLP(**vars(deep), seed=part_seed(self.seed, 1), dtype=dtype, name="deep_mlp")
        self.deep_mlp.build((None, self.fields * self.width))
        self.pairs = FactorizationMachine(dtype=dtype, name="pairs") if self.second_order else None
        self.built = True
        self._config |= {**deep.config(), "deep_mlp": deep.units[:-1]}
        del self._config["units"]

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, logits = self.terms(inputs, training)
        if self.pairs is not None:
            logits += ops.sum(ops.cast(self.pairs(vectors), "float32"), axis=1, keepdims=True)
        return logits + self.deep_mlp(self.side_by_side(vectors), training=training)


@keras.saving.register_keras_serializable("keras_dlrm")
class DeepFM(WideDeep):
    """logit = factorization machine + deep network, on the same vectors.

    Args:
        schema: A fitted `Schema`.
        embedding_dim, deep_mlp, …: As of `WideDeep`.

    Source: Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction".

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> DeepFM(schema, embedding_dim=4, deep_mlp=[8]).count_params()
    141
    """

    second_order = True
