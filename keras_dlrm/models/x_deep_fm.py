"""xDeepFM."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.compressed_interaction import CompressedInteraction
from keras_dlrm.models.field_model import DeepModel
from keras_dlrm.schema.schema import Schema


@keras.saving.register_keras_serializable("keras_dlrm")
class XDeepFM(DeepModel):
    """logit = terms of first order + compressed interaction network + deep network, on the same vectors.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        maps: Number of feature maps of each layer of the compressed interaction network.
        first_order: Whether there are the bias and the weights of first order.
        **kwargs: Further arguments of `DeepModel` and `FieldModel`, such as `deep_mlp`.

    Source: Lian et al. 2018, "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems",
    figure 5.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> XDeepFM(schema, embedding_dim=4, maps=[5], deep_mlp=[8]).count_params()
    167
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, maps: Sequence[int] = (100, 100),
        first_order: bool = True, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, embedding_dim, first_order=first_order, **kwargs)
        self.compressed = CompressedInteraction(maps, part_seed(self.seed, 3), dtype=self.dtype_policy, name="compressed")
        self.compressed.build((None, len(self.columns), self.width))
        self.compressed_logit = self.logit_layer(sum(self.compressed.maps), 2, "compressed_logit")
        self.deep_mlp = self.deep_network(len(self.columns) * self.width)
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        explicit = self.compressed_logit(self.compressed(vectors))
        return first_order + explicit + self.deep_mlp(self.side_by_side(vectors), training=training)
