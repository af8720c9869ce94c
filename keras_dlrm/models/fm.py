"""Factorization machine."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_dlrm.layers.factorization_machine import FactorizationMachine
from keras_dlrm.models.field_model import FieldModel
from keras_dlrm.schema.schema import Schema


@keras.saving.register_keras_serializable("keras_dlrm")
class FM(FieldModel):
    """logit = bias + Σ weights of the row's values + Σ dot products of all pairs of their vectors.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        first_order: Whether there are the bias and the weights.
        **kwargs: Further arguments of `FieldModel`.

    Source: Rendle 2010, "Factorization Machines", equation 1.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> FM(schema, embedding_dim=4).count_params()
    60
    """

    several_labels = False

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, first_order: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(schema, embedding_dim, first_order=first_order, **kwargs)
        self.pairs = FactorizationMachine(dtype=self.dtype_policy, name="pairs")
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        return first_order + ops.sum(ops.cast(self.pairs(vectors), "float32"), axis=1, keepdims=True)
