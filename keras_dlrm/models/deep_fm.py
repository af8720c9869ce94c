"""Wide & Deep and DeepFM: terms of first order beside a deep network, without and with a factorization machine."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_dlrm.layers.factorization_machine import FactorizationMachine
from keras_dlrm.models.field_model import DeepModel
from keras_dlrm.schema.schema import Schema


@keras.saving.register_keras_serializable("keras_dlrm")
class WideDeep(DeepModel):
    """logit = bias + Σ weights of the row's values + deep network of all vectors side by side.

    Args:
        schema: A fitted `Schema`. Crossed columns, whose weights the paper has on the wide side, are columns of it.
        embedding_dim: Width D of all vectors.
        first_order: Whether there is the wide side: the bias and the weights.
        **kwargs: Further arguments of `DeepModel` and `FieldModel`, such as `deep_mlp`.

    Source: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems".

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> WideDeep(schema, embedding_dim=4, deep_mlp=[8]).count_params()
    141
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, first_order: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(schema, embedding_dim, first_order=first_order, **kwargs)
        self.deep_mlp = self.deep_network(len(self.columns) * self.width)
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        return first_order + self.deep_mlp(self.side_by_side(vectors), training=training)


@keras.saving.register_keras_serializable("keras_dlrm")
class DeepFM(DeepModel):
    """logit = factorization machine + deep network, on the same vectors.

    Where there are several labels, the products of pairs are the same in the logit of each.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        first_order: Whether there are the bias and the weights of first order.
        **kwargs: Further arguments of `DeepModel` and `FieldModel`, such as `deep_mlp`.

    Source: Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction".

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> DeepFM(schema, embedding_dim=4, deep_mlp=[8]).count_params()
    141
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, first_order: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(schema, embedding_dim, first_order=first_order, **kwargs)
        self.pairs = FactorizationMachine(dtype=self.dtype_policy, name="pairs")
        self.deep_mlp = self.deep_network(len(self.columns) * self.width)
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        second_order = ops.sum(ops.cast(self.pairs(vectors), "float32"), axis=1, keepdims=True)
        return first_order + second_order + self.deep_mlp(self.side_by_side(vectors), training=training)
