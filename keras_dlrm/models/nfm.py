"""Neural factorization machine."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_dlrm.layers.factorization_machine import FactorizationMachine
from keras_dlrm.models.field_model import DeepModel
from keras_dlrm.schema.schema import Schema


@keras.saving.register_keras_serializable("keras_dlrm")
class NFM(DeepModel):
    """logit = bias + Σ weights of the row's values + deep network of the products of all pairs of vectors, summed to one vector.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        first_order: Whether there are the bias and the weights.
        **kwargs: Further arguments of `DeepModel` and `FieldModel`, such as `deep_mlp`.

    Source: He and Chua 2017, "Neural Factorization Machines for Sparse Predictive Analytics", equations 3 to 6.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> NFM(schema, embedding_dim=4, deep_mlp=[8]).count_params()
    109
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 64, first_order: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(schema, embedding_dim, first_order=first_order, **kwargs)
        self.pairs = FactorizationMachine(dtype=self.dtype_policy, name="pairs")
        self.deep_mlp = self.deep_network(self.width)
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        return first_order + self.deep_mlp(self.pairs(vectors), training=training)
