"""Deep Learning Recommendation Model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.options import EmbeddingOptions
from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.concatenation import ConcatenationInteraction
from keras_dlrm.layers.cross_layer import CrossOptions, crossed
from keras_dlrm.layers.dense_encoding import encoded_columns
from keras_dlrm.layers.dot_interaction import DotInteraction
from keras_dlrm.layers.mlp import BottomMLP, MLPOptions
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.models.own_interaction import configuration, width_of
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import boolean, integer

INTERACTIONS = ("dot", "cat", "cat_dot", "cross")
DOTS = ("dot", "cat_dot")


@keras.saving.register_keras_serializable("keras_dlrm")
class DLRM(ClickModel):
    """Dense features through a bottom MLP, sparse features through tables, both interacting, a top MLP to p(click).

    With a schema without dense columns there is no bottom MLP. Dense columns with an `encoding` are vectors of their own, too,
    between the bottom MLP's and those of the sparse columns.

    Args:
        schema: A fitted `Schema`; F sparse columns.
        embedding_dim: Width D of all tables, or a mapping table name → width: narrower tables are projected to D, the
            bottom MLP's last width or else the largest one (see `mixed_dimensions`).
        bottom_mlp: Widths of the bottom MLP; the last must be `embedding_dim`. `[512, 256, 64, D]` if omitted.
        top_mlp: Widths of the top MLP; the last must be 1, the logit, of which there is one for each label.
        interaction: `"dot"`: the bottom MLP's output, then all pairwise dot products (the paper). `"cat"`: all
            vectors side by side. `"cat_dot"`: both. `"cross"`: all vectors side by side through low-rank cross layers (MLPerf's
            DLRM-DCNv2). Or any Keras layer that maps all vectors (B, 1 + F, D) to (B, n), or to vectors (B, m, k), which are
            laid side by side; it is saved and loaded with the model.
        self_interaction: For `"dot"` and `"cat_dot"`, whether each vector is also multiplied with itself.
        cross_layers: For `"cross"`, how many cross layers.
        projection_dim: For `"cross"`, their rank; `None` for full matrices.
        activation: Activation of the MLPs' hidden layers.
        dropout: Share of activations dropped after each hidden layer of the top MLP.
        batch_norm: Whether the MLPs normalize before each activation.
        kernel_l2: L2 factor of the MLPs' and cross layers' kernels.
        embedding_dropout: Share of the pooled vectors' elements dropped.
        init_scale: Half-width of the tables' initial uniform distribution; √(1/rows) per table if omitted.
        embedding_options: Further arguments of `EmbeddingCollection`: `quotient_remainder`, `table_dtype`; `tpu`: those
            of a `TPUEmbedding` in its place.
        seed: Seed of all initial weights and of dropout.
        concat_dense: For `"cross"` and a layer, whether the top MLP sees the bottom MLP's output alongside the interaction's, as
            TensorFlow Recommenders' `Ranking` has it by default.
        first_order: Whether each table row has one more number, its weight in a sum that adds to the logit.

    Raises:
        ValueError: widths that do not match, unknown interaction, options that do not fit it, a layer that does not map
            (B, 1 + F, D) to (B, n) or (B, m, k).

    Source: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems";
    MLPerf training v3 (DLRM-DCNv2).

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10), kd.Categorical("C2", 5)])
    >>> model = DLRM(schema, embedding_dim=4, bottom_mlp=[8, 4], top_mlp=[8, 1])
    >>> model.predict(schema.pack({"I1": [0.5], "C1": [3], "C2": [4]}), verbose=0).shape
    (1, 1)
    """

    takes_tasks = True

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int | Mapping[str, int] = 16,
        bottom_mlp: Sequence[int] | None = None, top_mlp: Sequence[int] = (512, 256, 1),
        interaction: str | keras.layers.Layer | Mapping[str, Any] = "dot", self_interaction: bool = False,
        cross_layers: int = 3, projection_dim: int | None = 512, activation: Any = "relu", dropout: float = 0.0,
        batch_norm: bool = False, kernel_l2: float = 0.0, embedding_dropout: float = 0.0, init_scale: float | None = None,
        embedding_options: Mapping[str, Any] | None = None, seed: int | None = None, concat_dense: bool = False,
        first_order: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, seed, **kwargs)
        schema, dtype, width = self.schema, self.dtype_policy, _vector_width(embedding_dim, bottom_mlp)
        if bottom_mlp is None and schema.dense:
            bottom_mlp = [512, 256, 64, width]
        mlp: dict[str, Any] = {"activation": activation, "batch_norm": batch_norm, "kernel_l2": kernel_l2, "who": "DLRM"}
        bottom = None if bottom_mlp is None else MLPOptions(bottom_mlp, field="bottom_mlp", **mlp)
        top = MLPOptions(top_mlp, dropout=dropout, field="top_mlp", **mlp)
        tables = EmbeddingOptions(embedding_dim, embedding_dropout, init_scale, embedding_options, first_order, who="DLRM")
        cross = CrossOptions(cross_layers, projection_dim, kernel_l2, who="DLRM")
        self.self_interaction = boolean("DLRM", "self_interaction", self_interaction)
        self.concat_dense = boolean("DLRM", "concat_dense", concat_dense)
        interaction = _known(interaction)
        self.interaction_kind = interaction if isinstance(interaction, str) else "layer"
        _check_widths(schema, width, bottom, top)
        self._check_options(cross, interaction)

        # Layers
        self.first_order = tables.first_order
        self.embeddings = tables.layer(schema, self.seed, output_dim=width + self.first_order * self.n_labels, dtype=dtype)
        self.embedding_dropout = tables.dropout_layer(self.seed, dtype)
        self.bottom_mlp = None
        self.encoded = encoded_columns(schema, width, self.seed, dtype)
        if bottom is not None:
            self.bottom_mlp = BottomMLP(**vars(bottom), seed=part_seed(self.seed, 1), dtype=dtype, name="bottom_mlp")
        self.interaction: keras.layers.Layer = interaction
        if interaction in DOTS:
            self.interaction = DotInteraction(self.self_interaction, dtype=dtype, name="dot_interaction")
        elif interaction in INTERACTIONS:
            self.interaction = ConcatenationInteraction(dtype=dtype, name="concatenation")
        self.crosses = cross.layers(self.seed, dtype) if interaction == "cross" else []
        self.beside = ConcatenationInteraction(dtype=dtype, name="beside")

        # Shapes: (B, F, D) from the tables, (B, D) from the bottom MLP, (B, n) into the top MLP.
        if self.embeddings is not None:
            self.embeddings.build((None, schema.width))
        if self.bottom_mlp is not None:
            self.bottom_mlp.build((None, schema.n_dense))
        n = self._interaction_width((self._vectors, width))
        for layer in self.crosses:
            layer.build((None, n))
        hidden = dataclasses.replace(top, units=top.units[:-1], who="DLRM", field="top_mlp")
        self.top_mlp = self.last_network(n + width * self._vectors_beside, hidden, 2, "top_mlp")
        self.built = True

        # Config
        if not isinstance(interaction, str):
            interaction = configuration(interaction)
        self._config = {
            **{name: value for name, value in top.config().items() if name != "units"},
            **{"cross_layers": cross.cross_layers, "projection_dim": projection_dim},
            **vars(tables),
            "bottom_mlp": bottom and bottom.units,
            "top_mlp": top.units,
            "interaction": interaction,
            "self_interaction": self.self_interaction,
            "concat_dense": self.concat_dense,
        }

    # -- the figure --------------------------------------------------------------------------------------------------

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        x, vectors, first_order = None, [], None
        if self.bottom_mlp is not None:
            x = self.bottom_mlp(inputs["dense"], training=training)  # (B, D)
            vectors.append(ops.expand_dims(x, 1))
        if self.encoded is not None:
            vectors.append(self.encoded(inputs["dense"]))  # (B, n, D)
        if self.embeddings is not None:
            pooled, first_order = self.pooled_vectors(inputs, training)  # (B, F, D), (B, T)
            vectors.append(pooled)
        features = ops.concatenate(vectors, axis=1) if len(vectors) > 1 else vectors[0]  # (B, 1 + F, D)
        logits = self.top_mlp(self.interact(x, features), training=training)
        return logits if first_order is None else logits + first_order

    def interact(self, x: Any, features: Any) -> Any:
        """Bottom MLP output x (B, D) or `None`, and all vectors (B, 1 + F, D) → the top MLP's input (B, n)."""
        interacted = crossed(self.crosses, self.interaction(features))
        parts = [features if self.interaction_kind == "cat_dot" else x] if self._vectors_beside else []
        return self.beside([*parts, interacted])

    @property
    def _vectors_beside(self) -> int:
        """Number of vectors that the top MLP sees alongside the interaction's output: all, the bottom MLP's or none."""
        if self.interaction_kind == "cat_dot":
            return self._vectors
        return int(self.bottom_mlp is not None and (self.interaction_kind == "dot" or self.concat_dense))

    # -- checks ------------------------------------------------------------------------------------------------------

    @property
    def _vectors(self) -> int:
        """Number of vectors that interact: 1 + F, and one for each encoded dense column."""
        encoded = sum(column.encoding is not None for column in self.schema.dense)
        return len(self.schema.categorical) + bool(self.schema.dense) + encoded

    def _check_options(self, cross: CrossOptions, interaction: Any) -> None:
        kind, own = self.interaction_kind, not isinstance(interaction, str)
        name = type(interaction).__name__ if own else kind
        if self.self_interaction and kind not in DOTS:
            raise ValueError(f"DLRM: self_interaction=True needs interaction='dot' or 'cat_dot', not {name!r}.")
        for field, value, default in (("cross_layers", cross.cross_layers, 3), ("projection_dim", cross.projection_dim, 512)):
            if kind != "cross" and value != default:
                raise ValueError(
                    f"DLRM: {field}={value!r} needs interaction='cross', not {name!r}, which has no cross layers; leave it out."
                )
        if self.concat_dense and (not (own or kind == "cross") or not self.schema.dense):
            lacking = "and dense columns, which the schema does not have" if own or kind == "cross" else f"not {kind!r}"
            raise ValueError(f"DLRM: concat_dense=True needs interaction='cross' or a layer, {lacking}; leave it out.")
        if kind in DOTS and self._vectors + self.self_interaction < 2:
            raise ValueError(f"DLRM: interaction={kind!r} needs two feature vectors; the schema gives one. Use 'cat'.")

    def _interaction_width(self, shape: tuple[int, int]) -> int:
        """n of the interaction's output (B, n) for vectors of a shape (1 + F, D); builds a layer of the user's own."""
        if self.interaction_kind in INTERACTIONS:
            return int(self.interaction.compute_output_shape((None, *shape))[1])
        return width_of(self.interaction, shape, self.compute_dtype)


def _known(interaction: Any) -> Any:
    """The name of an interaction or its layer, which may come as a configuration."""
    if isinstance(interaction, Mapping):
        interaction = keras.saving.deserialize_keras_object(dict(interaction))
    if isinstance(interaction, keras.layers.Layer) or interaction in INTERACTIONS:
        return interaction
    raise ValueError(
        f"DLRM: interaction={interaction!r} is unknown; use one of {INTERACTIONS}, or a Keras layer that maps (B, 1 + F, D) to "
        "(B, n)."
    )


def _vector_width(embedding_dim: int | Mapping[str, int], bottom_mlp: Sequence[int] | None) -> int:
    """D: of tables of several widths that of the bottom MLP's last layer, or else the largest."""
    if isinstance(embedding_dim, Mapping):
        embedding_dim = [*bottom_mlp][-1] if bottom_mlp else max(embedding_dim.values(), default=0)
    return integer("DLRM", "embedding_dim", embedding_dim)


def _check_widths(schema: Schema, embedding_dim: int, bottom: MLPOptions | None, top: MLPOptions) -> None:
    if not top.units or top.units[-1] != 1:
        raise ValueError(f"DLRM: top_mlp={top.units} must end with 1, the logit of the click probability.")
    if bottom is None:
        return
    if not schema.dense:
        raise ValueError(f"DLRM: bottom_mlp={bottom.units} was given, but the schema has no dense columns; leave it out.")
    if not bottom.units or bottom.units[-1] != embedding_dim:
        raise ValueError(
            f"DLRM: bottom_mlp={bottom.units} ends with {bottom.units[-1] if bottom.units else 'nothing'} but "
            f"embedding_dim={embedding_dim}; they must be equal, because the bottom MLP's output interacts with the "
            "embedding vectors."
        )
