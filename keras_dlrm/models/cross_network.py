"""What DCN and DCNv2 share: x₀ from all features, a cross network, a deep network, one logit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.sparse_core.tpu_embedding import embedding_layer
from keras_dlrm.initializers import ReferenceBias, ReferenceKernel, part_seed
from keras_dlrm.layers.cross_layer import CrossLayer
from keras_dlrm.layers.mlp import MLP
from keras_dlrm.models.click_model import ClickModel, options
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer, number, widths

STRUCTURES = ("stacked", "parallel")


class CrossNetwork(ClickModel):
    """Base of `DCN` and `DCNv2`; they say which cross layer and which structure.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width of all tables, a mapping table name → width, or `"paper"`: 6 · rows^¼ for each table.
        cross_layers: How many cross layers, >= 1.
        deep_mlp: Widths of the deep network's layers; empty for a cross network alone.
        kind, projection_dim: See `CrossLayer`.
        structure: `"stacked"`: the deep network follows the cross network. `"parallel"`: both start at x₀.
        activation, dropout, batch_norm: Of the deep network.
        kernel_l2: L2 factor of all kernels.
        embedding_dropout: Share of x₀'s embedding elements dropped.
        init_scale: Half-width of the tables' initial uniform distribution; √(1/rows) per table if omitted.
        embedding_options: Further arguments of `EmbeddingCollection`: `quotient_remainder`, `table_dtype`; `tpu`: those
            of a `TPUEmbedding` in its place.
        seed: Seed of all initial weights and of dropout.
    """

    def __init__(
        self,
        schema: Schema | Mapping[str, Any],
        embedding_dim: int | str | Mapping[str, int],
        cross_layers: int,
        deep_mlp: Sequence[int],
        kind: str,
        projection_dim: int | None,
        structure: str,
        activation: Any,
        dropout: float,
        batch_norm: bool,
        kernel_l2: float,
        embedding_dropout: float,
        init_scale: float | None,
        embedding_options: Mapping[str, Any] | None,
        seed: int | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(schema, seed, **kwargs)
        schema, who = self.schema, type(self).__name__
        if structure not in STRUCTURES:
            raise ValueError(f"{who}: structure={structure!r} is unknown; use one of {STRUCTURES}.")
        cross_layers = integer(who, "cross_layers", cross_layers)
        deep_mlp = widths(who, "deep_mlp", deep_mlp)
        table_widths = _table_widths(who, schema, embedding_dim)
        embedding_dropout = number(who, "embedding_dropout", embedding_dropout, below=1.0)
        self.structure = structure
        self._config: dict[str, Any] = {
            "embedding_dim": embedding_dim if embedding_dim == "paper" else table_widths,
            "cross_layers": cross_layers,
            "deep_mlp": deep_mlp,
            "activation": activation if isinstance(activation, str) else keras.activations.serialize(activation),
            "dropout": dropout,
            "batch_norm": batch_norm,
            "kernel_l2": kernel_l2,
            "embedding_dropout": embedding_dropout,
            "init_scale": init_scale,
            "embedding_options": options(embedding_options),
        }

        # Layers
        if schema.categorical:
            self.embeddings = embedding_layer(
                schema,
                table_widths,
                concatenate=True,
                init_scale=init_scale,
                seed=part_seed(self.seed, 0),
                **self._config["embedding_options"],
                dtype=self.dtype_policy,
                name="embeddings",
            )
        self.embedding_dropout = (
            keras.layers.Dropout(
                embedding_dropout, seed=part_seed(self.seed, 4), dtype=self.dtype_policy, name="embedding_dropout"
            )
            if embedding_dropout
            else None
        )
        self.crosses = [
            CrossLayer(
                kind,
                projection_dim,
                kernel_l2,
                seed=part_seed(self.seed, 3, i),
                dtype=self.dtype_policy,
                name=f"cross_layer_{i}",
            )
            for i in range(cross_layers)
        ]
        self.deep_mlp = (
            MLP(
                deep_mlp,
                activation,
                dropout,
                batch_norm,
                kernel_l2,
                seed=part_seed(self.seed, 1),
                dtype=self.dtype_policy,
                name="deep_mlp",
            )
            if deep_mlp
            else None
        )
        self.logit = keras.layers.Dense(
            1,
            kernel_initializer=ReferenceKernel([part_seed(self.seed, 2), 0]),
            bias_initializer=ReferenceBias([part_seed(self.seed, 2), 1]),
            dtype="float32",
            name="logit",
        )

        # Shapes: x₀ is (B, n).
        width = schema.n_dense
        if self.embeddings is not None:
            self.embeddings.build((None, schema.width))
            width += self.embeddings.compute_output_shape((None, schema.width))[1] or 0
        for cross in self.crosses:
            cross.build((None, width))
        last = width
        if self.deep_mlp is not None:
            self.deep_mlp.build((None, width))
            last = self.deep_mlp.units[-1] + (width if structure == "parallel" else 0)
        self.logit.build((None, last))
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        x0 = self.features(inputs, training)  # (B, n)
        crossed = x0
        for cross in self.crosses:
            crossed = cross(x0, crossed)
        if self.deep_mlp is None:
            return self.logit(crossed)
        if self.structure == "stacked":
            return self.logit(self.deep_mlp(crossed, training=training))
        return self.logit(ops.concatenate([crossed, self.deep_mlp(x0, training=training)], axis=1))

    def features(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """x₀ (B, n): the dense features, then each sparse column's pooled vector."""
        parts = [ops.cast(inputs["dense"], self.compute_dtype)] if self.schema.dense else []
        if self.embeddings is not None:
            vectors = self.embeddings(inputs)
            if self.embedding_dropout is not None:
                vectors = self.embedding_dropout(vectors, training=training)
            parts.append(vectors)
        return ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}


def _table_widths(who: str, schema: Schema, embedding_dim: Any) -> Any:
    """An integer, or a mapping by table."""
    if isinstance(embedding_dim, Mapping):
        return dict(embedding_dim)
    if embedding_dim == "paper":
        return {name: max(1, int(6 * rows**0.25)) for name, rows in schema.table_sizes.items()}
    if isinstance(embedding_dim, str):
        raise ValueError(f"{who}: embedding_dim={embedding_dim!r}; use an integer, a mapping by table, or 'paper'.")
    return integer(who, "embedding_dim", embedding_dim)
