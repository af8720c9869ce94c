"""Deep & Cross Networks, version 1 and 2."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.options import EmbeddingOptions
from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.concatenation import ConcatenationInteraction
from keras_dlrm.layers.cross_layer import CrossOptions, crossed
from keras_dlrm.layers.dense_encoding import encoded_columns
from keras_dlrm.layers.mlp import MLP, MLPOptions
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import choice

# Width of the vectors of encoded dense columns where tables have several widths.
ENCODED_WIDTH = 16


class CrossNetwork(ClickModel):
    """Base of the Deep & Cross Networks, with the arguments of `DCNv2`. With no units there is no deep network."""

    #: Kind of the cross layers, see `CrossOptions`.
    cross_kind = "matrix"
    takes_tasks = True

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int | str | Mapping[str, int] = 16, cross_layers: int = 3,
        deep_mlp: Sequence[int] = (512, 512), structure: str = "stacked", projection_dim: int | None = None,
        activation: Any = "relu", dropout: float = 0.0, batch_norm: bool = False, kernel_l2: float = 0.0,
        embedding_dropout: float = 0.0, init_scale: float | None = None,
        embedding_options: Mapping[str, Any] | None = None, first_order: bool = False, seed: int | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        who = type(self).__name__
        tables = EmbeddingOptions(embedding_dim, embedding_dropout, init_scale, embedding_options, first_order, who=who)
        cross = CrossOptions(cross_layers, projection_dim, kernel_l2, self.cross_kind, who=who)
        deep = MLPOptions(deep_mlp, activation, dropout, batch_norm, kernel_l2, who=who, field="deep_mlp")
        super().__init__(schema, seed, **kwargs)
        schema, dtype, deep_seed = self.schema, self.dtype_policy, part_seed(self.seed, 1)
        choice(who, "structure", structure, ("stacked", "parallel"))
        self.structure = structure

        # Layers
        self.first_order = tables.first_order
        self.embeddings = tables.layer(schema, self.seed, concatenate=not self.first_order, dtype=dtype)
        self.embedding_dropout = tables.dropout_layer(self.seed, dtype)
        width = tables.embedding_dim if isinstance(tables.embedding_dim, int) else ENCODED_WIDTH
        self.encoded = encoded_columns(schema, width, self.seed, dtype)
        self.side_by_side = ConcatenationInteraction(dtype=dtype, name="side_by_side")
        self.crosses = cross.layers(self.seed, dtype)
        self.deep_mlp = MLP(**vars(deep), seed=deep_seed, dtype=dtype, name="deep_mlp") if deep.units else None

        # Shapes: x₀ is (B, n).
        n = schema.n_dense
        if self.embeddings is not None:
            self.embeddings.build((None, schema.width))
            shape = self.embeddings.compute_output_shape((None, schema.width))
            n += shape[1] * width if self.first_order else shape[1]  # type: ignore[operator]
        if self.encoded is not None:
            n += self.encoded.count * width
        for layer in self.crosses:
            layer.build((None, n))
        last = n
        if self.deep_mlp is not None:
            self.deep_mlp.build((None, n))
            last = self.deep_mlp.units[-1] + (n if structure == "parallel" else 0)
        self.logit = self.last_layer(last, 2, "logit", deep)
        self.built = True

        # Config
        self._config = {
            **{name: value for name, value in deep.config().items() if name != "units"},
            **vars(tables),
            "cross_layers": cross.cross_layers,
            "deep_mlp": deep.units,
            "structure": structure,
            "projection_dim": projection_dim,
        }

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        x0, first_order = self.features(inputs, training)  # (B, n), (B, T)
        x = crossed(self.crosses, x0)
        if self.deep_mlp is not None:
            deep = self.deep_mlp(x if self.structure == "stacked" else x0, training=training)
            x = deep if self.structure == "stacked" else ops.concatenate([x, deep], axis=1)
        return self.logit(x) if first_order is None else self.logit(x) + first_order

    def features(self, inputs: Mapping[str, Any], training: bool | None = None) -> tuple[Any, Any]:
        """x₀ (B, n): the dense features, vectors of the encoded ones, then each sparse column's pooled vector.

        With it the first-order terms of the logit.
        """
        parts = [ops.cast(inputs["dense"], self.compute_dtype)] if self.schema.dense else []
        first_order = None
        if self.encoded is not None:
            parts.append(self.encoded(inputs["dense"]))
        if self.embeddings is not None:
            pooled, first_order = self.pooled_vectors(inputs, training)
            parts.append(pooled)
        return self.side_by_side(parts), first_order


@keras.saving.register_keras_serializable("keras_dlrm")
class DCN(CrossNetwork):
    """All features side by side through a cross network of vector weights alongside a deep network.

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
        first_order: Whether each table row has one more number, its weight in a sum that adds to the logit.
        seed: Seed of all initial weights and of dropout.

    Source: Wang et al. 2017, "Deep & Cross Network for Ad Click Predictions".

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> DCN(schema, embedding_dim="paper", cross_layers=2, deep_mlp=[8]).embeddings.widths
    {'C1': 10}
    """

    cross_kind = "vector"

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int | str | Mapping[str, int] = 16, cross_layers: int = 6,
        deep_mlp: Sequence[int] = (1024, 1024), activation: Any = "relu", dropout: float = 0.0, batch_norm: bool = False,
        kernel_l2: float = 0.0, embedding_dropout: float = 0.0, init_scale: float | None = None,
        embedding_options: Mapping[str, Any] | None = None, first_order: bool = False, seed: int | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            schema, embedding_dim, cross_layers, deep_mlp, "parallel", None, activation, dropout, batch_norm, kernel_l2,
            embedding_dropout, init_scale, embedding_options, first_order, seed, **kwargs,
        )  # fmt: skip
        del self._config["structure"], self._config["projection_dim"]


@keras.saving.register_keras_serializable("keras_dlrm")
class DCNv2(CrossNetwork):
    """All features side by side through a cross network of matrix weights, before or alongside a deep network.

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
        first_order: Whether each table row has one more number, its weight in a sum that adds to the logit.
        seed: Seed of all initial weights and of dropout.

    Source: Wang et al. 2021, "DCN V2: Improved Deep & Cross Network", figure 1.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> DCNv2(schema, 4, cross_layers=2, deep_mlp=[8], structure="parallel", projection_dim=2).count_params()
    152
    """
