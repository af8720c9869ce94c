"""AutoInt."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.field_attention import FieldAttention
from keras_dlrm.models.field_model import DeepModel
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer


@keras.saving.register_keras_serializable("keras_dlrm")
class AutoInt(DeepModel):
    """logit = last attention layer's vectors through one linear layer + deep network of all vectors (AutoInt+).

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        attention_layers: How many attention layers.
        heads: Heads of each.
        head_dim: Width of each head.
        **kwargs: Further arguments of `DeepModel` and `FieldModel`, such as `deep_mlp`.

    Source: Song et al. 2019, "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks".

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> AutoInt(schema, embedding_dim=4, attention_layers=1, heads=2, head_dim=3, deep_mlp=[8]).count_params()
    238
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, attention_layers: int = 3, heads: int = 2,
        head_dim: int = 16, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, embedding_dim, **kwargs)
        shape: tuple[Any, ...] = (None, len(self.columns), self.width)
        self.attention = []
        for i in range(integer("AutoInt", "attention_layers", attention_layers)):
            options = {"seed": part_seed(self.seed, 3, i), "dtype": self.dtype_policy, "name": f"attention_{i}"}
            layer = FieldAttention(heads, head_dim, **options)
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
            self.attention.append(layer)
        self.attention_logit = self.logit_layer(shape[1] * shape[2], 2, "attention_logit")
        self.deep_mlp = self.deep_network(len(self.columns) * self.width)
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        attended = vectors
        for layer in self.attention:
            attended = layer(attended)
        logits = first_order + self.attention_logit(self.side_by_side(attended))
        return logits + self.deep_mlp(self.side_by_side(vectors), training=training)
