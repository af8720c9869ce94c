"""Deep & Cross Network, version 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_dlrm.embeddings.options import EmbeddingOptions
from keras_dlrm.layers.cross_layer import CrossOptions
from keras_dlrm.layers.mlp import MLPOptions
from keras_dlrm.models.cross_network import CrossNetwork
from keras_dlrm.schema.schema import Schema


@keras.saving.register_keras_serializable("keras_dlrm")
class DCN(CrossNetwork):
    """All features side by side through a cross network of vector weights beside a deep network.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width of all tables, a mapping table name → width, or `"paper"`: 6 · rows^¼ for each table.
        cross_layers: How many cross layers; the paper's best on Criteo has 6.
        deep_mlp: Widths of the deep network's layers; the paper's best on Criteo has two of 1024.
        activation: Activation of the deep network.
        dropout: Share of activations dropped after each deep layer.
        batch_norm: Whether the deep network normalizes before each activation, as the paper does.
        kernel_l2: L2 factor of all kernels.
        embedding_dropout: Share of x₀'s embedding elements dropped.
        init_scale: Half-width of the tables' initial uniform distribution; √(1/rows) per table if omitted.
        embedding_options: Further arguments of `EmbeddingCollection`: `quotient_remainder`, `table_dtype`; `tpu`: those
            of a `TPUEmbedding` in its place.
        seed: Seed of all initial weights and of dropout.

    Source: Wang et al. 2017, "Deep & Cross Network for Ad Click Predictions".

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> DCN(schema, embedding_dim="paper", cross_layers=2, deep_mlp=[8]).embeddings.widths
    {'C1': 10}
    """

    def __init__(
        self,
        schema: Schema | Mapping[str, Any],
        embedding_dim: int | str | Mapping[str, int] = 16,
        cross_layers: int = 6,
        deep_mlp: Sequence[int] = (1024, 1024),
        activation: Any = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        kernel_l2: float = 0.0,
        embedding_dropout: float = 0.0,
        init_scale: float | None = None,
        embedding_options: Mapping[str, Any] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        tables = EmbeddingOptions(embedding_dim, embedding_dropout, init_scale, embedding_options, who="DCN")
        cross = CrossOptions(cross_layers, None, kernel_l2, "vector", who="DCN")
        deep = MLPOptions(deep_mlp, activation, dropout, batch_norm, kernel_l2, who="DCN", field="deep_mlp")
        super().__init__(schema, tables, cross, deep, "parallel", seed, **kwargs)
