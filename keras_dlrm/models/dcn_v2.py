"""Deep & Cross Network, version 2."""

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
class DCNv2(CrossNetwork):
    """All features side by side through a cross network of matrix weights, before or beside a deep network.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width of all tables, a mapping table name → width, or `"paper"`: 6 · rows^¼ for each table.
        cross_layers: How many cross layers.
        deep_mlp: Widths of the deep network's layers.
        structure: `"stacked"`: the deep network follows the cross network. `"parallel"`: both start at x₀.
        projection_dim: Rank of low-rank cross layers; `None` for full matrices.
        activation: Activation of the deep network.
        dropout: Share of activations dropped after each deep layer.
        batch_norm: Whether the deep network normalizes before each activation.
        kernel_l2: L2 factor of all kernels.
        embedding_dropout: Share of x₀'s embedding elements dropped.
        init_scale: Half-width of the tables' initial uniform distribution; √(1/rows) per table if omitted.
        embedding_options: Further arguments of `EmbeddingCollection`: `quotient_remainder`, `table_dtype`; `tpu`: those
            of a `TPUEmbedding` in its place.
        seed: Seed of all initial weights and of dropout.

    Source: Wang et al. 2021, "DCN V2: Improved Deep & Cross Network", figure 1.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> DCNv2(schema, 4, cross_layers=2, deep_mlp=[8], structure="parallel", projection_dim=2).count_params()
    152
    """

    def __init__(
        self,
        schema: Schema | Mapping[str, Any],
        embedding_dim: int | str | Mapping[str, int] = 16,
        cross_layers: int = 3,
        deep_mlp: Sequence[int] = (512, 512),
        structure: str = "stacked",
        projection_dim: int | None = None,
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
        tables = EmbeddingOptions(embedding_dim, embedding_dropout, init_scale, embedding_options, who="DCNv2")
        cross = CrossOptions(cross_layers, projection_dim, kernel_l2, who="DCNv2")
        deep = MLPOptions(deep_mlp, activation, dropout, batch_norm, kernel_l2, who="DCNv2", field="deep_mlp")
        super().__init__(schema, tables, cross, deep, structure, seed, **kwargs)
        self._config |= {"structure": structure, "projection_dim": projection_dim}
