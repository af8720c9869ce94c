"""Wukong."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.wukong_layer import WukongLayer
from keras_dlrm.models.field_model import DeepModel
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer


@keras.saving.register_keras_serializable("keras_dlrm")
class Wukong(DeepModel):
    """A stack of Wukong layers on all vectors, and a deep network of the last one's output.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        wukong_layers: How many Wukong layers; l of them have products of order 2ˡ.
        fm_vectors: Vectors of each layer's factorization machine block.
        linear_vectors: Vectors of each layer's linear compression.
        rank: Columns of the block's projection.
        block_mlp: Widths of the hidden layers of the block's MLP.
        **kwargs: Further arguments of `DeepModel` and `FieldModel`, such as `deep_mlp`.

    Source: Zhang et al. 2024, "Wukong: Towards a Scaling Law for Large-Scale Recommendation", figure 2.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> model = Wukong(schema, 4, wukong_layers=1, fm_vectors=2, linear_vectors=2, rank=2, block_mlp=[3], deep_mlp=[8])
    >>> model.count_params()
    272
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, wukong_layers: int = 2, fm_vectors: int = 16,
        linear_vectors: int = 16, rank: int = 16, block_mlp: Sequence[int] = (256,), **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, embedding_dim, **kwargs)
        shape: tuple[Any, ...] = (None, len(self.columns), self.width)
        self.stack = []
        for i in range(integer("Wukong", "wukong_layers", wukong_layers)):
            options = {"seed": part_seed(self.seed, 3, i), "dtype": self.dtype_policy, "name": f"wukong_{i}"}
            layer = WukongLayer(fm_vectors, linear_vectors, rank, block_mlp, **options)
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
            self.stack.append(layer)
        self.deep_mlp = self.deep_network(shape[1] * shape[2])
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        for layer in self.stack:
            vectors = layer(vectors, training=training)
        return first_order + self.deep_mlp(self.side_by_side(vectors), training=training)
