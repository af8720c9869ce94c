"""Deep Learning Recommendation Model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.sparse_core.tpu_embedding import embedding_layer
from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.bottom_mlp import BottomMLP
from keras_dlrm.layers.concatenation import ConcatenationInteraction
from keras_dlrm.layers.cross_layer import CrossLayer
from keras_dlrm.layers.dot_interaction import DotInteraction
from keras_dlrm.layers.top_mlp import TopMLP
from keras_dlrm.models.click_model import ClickModel, options
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import boolean, integer, number, widths

INTERACTIONS = ("dot", "cat", "cross")


@keras.saving.register_keras_serializable("keras_dlrm")
class DLRM(ClickModel):
    """Dense features through a bottom MLP, sparse features through tables, both interacting, a top MLP to p(click).

    With a schema without dense columns there is no bottom MLP.

    Args:
        schema: A fitted `Schema`; F sparse columns.
        embedding_dim: Width D of all tables, or a mapping table name → width: narrower tables are projected to D, the
            bottom MLP's last width or else the largest one (see `mixed_dimensions`).
        bottom_mlp: Widths of the bottom MLP; the last must be `embedding_dim`. `[512, 256, 64, D]` if omitted.
        top_mlp: Widths of the top MLP; the last must be 1.
        interaction: `"dot"`: the bottom MLP's output, then all pairwise dot products (the paper). `"cat"`: all
            vectors side by side. `"cross"`: all vectors side by side through low-rank cross layers (MLPerf's
            DLRM-DCNv2).
        self_interaction: For `"dot"`, whether each vector is also multiplied with itself.
        cross_layers: For `"cross"`, how many cross layers.
        projection_dim: For `"cross"`, their rank; `None` for full matrices.
        activation: Activation of the MLPs' hidden layers.
        dropout: Share of activations dropped after each hidden layer of the top MLP.
        batch_norm: Whether the MLPs normalise before each activation.
        kernel_l2: L2 factor of the MLPs' and cross layers' kernels.
        embedding_dropout: Share of the pooled vectors' elements dropped.
        init_scale: Half-width of the tables' initial uniform distribution; √(1/rows) per table if omitted.
        embedding_options: Further arguments of `EmbeddingCollection`: `quotient_remainder`, `table_dtype`; `tpu`: those
            of a `TPUEmbedding` in its place.
        seed: Seed of all initial weights and of dropout.
        concat_dense: For `"cross"`, whether the top MLP sees the bottom MLP's output beside that of the cross layers, as
            TensorFlow Recommenders' `Ranking` has it by default.

    Raises:
        ValueError: widths that do not match, unknown interaction, options that do not fit it.

    Source: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems";
    MLPerf training v3 (DLRM-DCNv2).

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10), kd.Categorical("C2", 5)])
    >>> model = DLRM(schema, embedding_dim=4, bottom_mlp=[8, 4], top_mlp=[8, 1])
    >>> model.predict(schema.pack({"I1": [0.5], "C1": [3], "C2": [4]}), verbose=0).shape
    (1, 1)
    """

    def __init__(
        self,
        schema: Schema | Mapping[str, Any],
        embedding_dim: int | Mapping[str, int] = 16,
        bottom_mlp: Sequence[int] | None = None,
        top_mlp: Sequence[int] = (512, 256, 1),
        interaction: str = "dot",
        self_interaction: bool = False,
        cross_layers: int = 3,
        projection_dim: int | None = 512,
        activation: Any = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        kernel_l2: float = 0.0,
        embedding_dropout: float = 0.0,
        init_scale: float | None = None,
        embedding_options: Mapping[str, Any] | None = None,
        seed: int | None = None,
        concat_dense: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(schema, seed, **kwargs)
        schema = self.schema
        table_widths, embedding_options = embedding_dim, options(embedding_options)
        if isinstance(embedding_dim, Mapping):
            last = [*bottom_mlp][-1:] if bottom_mlp is not None else []
            embedding_dim = last[0] if last else max(embedding_dim.values(), default=0)
        embedding_dim = integer("DLRM", "embedding_dim", embedding_dim)
        if bottom_mlp is not None:
            bottom_mlp = widths("DLRM", "bottom_mlp", bottom_mlp)
        elif schema.dense:
            bottom_mlp = [512, 256, 64, embedding_dim]
        top_mlp = widths("DLRM", "top_mlp", top_mlp)
        _check_widths(schema, embedding_dim, bottom_mlp, top_mlp)
        embedding_dropout = number("DLRM", "embedding_dropout", embedding_dropout, below=1.0)
        if interaction not in INTERACTIONS:
            raise ValueError(f"DLRM: interaction={interaction!r} is unknown; use one of {INTERACTIONS}.")
        self_interaction = boolean("DLRM", "self_interaction", self_interaction)
        if self_interaction and interaction != "dot":
            raise ValueError(f"DLRM: self_interaction=True needs interaction='dot', not {interaction!r}.")
        cross_layers = integer("DLRM", "cross_layers", cross_layers)
        if interaction != "cross":
            for field, value, default in (("cross_layers", cross_layers, 3), ("projection_dim", projection_dim, 512)):
                if value != default:
                    raise ValueError(
                        f"DLRM: {field}={value!r} needs interaction='cross', not {interaction!r}, which has no cross layers; "
                        "leave it out."
                    )
        self.concat_dense = boolean("DLRM", "concat_dense", concat_dense)
        if self.concat_dense and (interaction != "cross" or not schema.dense):
            lacking = f"not {interaction!r}" if interaction != "cross" else "and dense columns, which the schema does not have"
            raise ValueError(f"DLRM: concat_dense=True needs interaction='cross', {lacking}; leave it out.")
        vectors = len(schema.categorical) + bool(schema.dense)
        if interaction == "dot" and vectors + bool(self_interaction) < 2:
            raise ValueError("DLRM: interaction='dot' needs two feature vectors; the schema gives one. Use 'cat'.")
        mlp = {
            "activation": activation,
            "batch_norm": batch_norm,
            "kernel_l2": kernel_l2,
            "dtype": self.dtype_policy,
        }
        self.interaction_kind = interaction
        self._config = {
            "embedding_dim": dict(table_widths) if isinstance(table_widths, Mapping) else embedding_dim,
            "bottom_mlp": bottom_mlp,
            "top_mlp": top_mlp,
            "interaction": interaction,
            "self_interaction": self_interaction,
            "cross_layers": cross_layers,
            "projection_dim": projection_dim,
            "activation": activation if isinstance(activation, str) else keras.activations.serialize(activation),
            "dropout": dropout,
            "batch_norm": batch_norm,
            "kernel_l2": kernel_l2,
            "embedding_dropout": embedding_dropout,
            "init_scale": init_scale,
            "embedding_options": embedding_options,
            "concat_dense": self.concat_dense,
        }

        # Layers
        if schema.categorical:
            self.embeddings = embedding_layer(
                schema,
                table_widths,
                output_dim=embedding_dim,
                init_scale=init_scale,
                seed=part_seed(self.seed, 0),
                **embedding_options,
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
        self.bottom_mlp = (
            BottomMLP(bottom_mlp, seed=part_seed(self.seed, 1), name="bottom_mlp", **mlp)
            if schema.dense and bottom_mlp
            else None
        )
        self.flatten = ConcatenationInteraction(dtype=self.dtype_policy, name="concatenation")
        self.dot = DotInteraction(self_interaction, dtype=self.dtype_policy, name="dot_interaction")
        self.crosses = [
            CrossLayer(
                "matrix",
                projection_dim,
                kernel_l2,
                seed=part_seed(self.seed, 3, i),
                dtype=self.dtype_policy,
                name=f"cross_layer_{i}",
            )
            for i in range(cross_layers if interaction == "cross" else 0)
        ]
        self.top_mlp = TopMLP(top_mlp, dropout=dropout, seed=part_seed(self.seed, 2), name="top_mlp", **mlp)

        # Shapes: (B, F, D) from the tables, (B, D) from the bottom MLP, (B, n) into the top MLP.
        dense_width = embedding_dim if self.bottom_mlp is not None else 0
        if self.embeddings is not None:
            self.embeddings.build((None, schema.width))
        if self.bottom_mlp is not None:
            self.bottom_mlp.build((None, schema.n_dense))
        if interaction == "dot":
            width = dense_width + self.dot.compute_output_shape((None, vectors, embedding_dim))[1]
        else:
            width = vectors * embedding_dim
            for cross in self.crosses:
                cross.build((None, width))
            width += dense_width if self.concat_dense else 0
        self.top_mlp.build((None, width))
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        x, vectors = None, []
        if self.bottom_mlp is not None:
            x = self.bottom_mlp(inputs["dense"], training=training)  # (B, D)
            vectors.append(ops.expand_dims(x, 1))
        if self.embeddings is not None:
            looked_up = self.embeddings(inputs)  # (B, F, D)
            if self.embedding_dropout is not None:
                looked_up = self.embedding_dropout(looked_up, training=training)
            vectors.append(looked_up)
        features = ops.concatenate(vectors, axis=1) if len(vectors) > 1 else vectors[0]  # (B, 1 + F, D)
        return self.top_mlp(self.interact(x, features), training=training)

    def interact(self, x: Any, features: Any) -> Any:
        """Bottom MLP output x (B, D) or `None`, and all vectors (B, 1 + F, D) → the top MLP's input (B, n)."""
        if self.interaction_kind == "dot":
            products = self.dot(features)
            return products if x is None else self.flatten([x, products])
        x0 = crossed = self.flatten(features)
        for cross in self.crosses:
            crossed = cross(x0, crossed)
        return self.flatten([x, crossed]) if self.concat_dense else crossed

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}


def _check_widths(schema: Schema, embedding_dim: int, bottom_mlp: list[int] | None, top_mlp: list[int]) -> None:
    if not top_mlp or top_mlp[-1] != 1:
        raise ValueError(f"DLRM: top_mlp={top_mlp} must end with 1, the logit of the click probability.")
    if bottom_mlp is not None and not schema.dense:
        raise ValueError(f"DLRM: bottom_mlp={bottom_mlp} was given, but the schema has no dense columns; leave it out.")
    if bottom_mlp is not None and (not bottom_mlp or bottom_mlp[-1] != embedding_dim):
        raise ValueError(
            f"DLRM: bottom_mlp={bottom_mlp} ends with {bottom_mlp[-1] if bottom_mlp else 'nothing'} but "
            f"embedding_dim={embedding_dim}; they must be equal, because the bottom MLP's output interacts with the "
            "embedding vectors."
        )
