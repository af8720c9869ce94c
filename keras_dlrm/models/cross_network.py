"""Base of DCN and DCNv2: x₀ from all features, a cross network, a deep network, one logit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.options import EmbeddingOptions
from keras_dlrm.initializers import ReferenceBias, ReferenceKernel, part_seed
from keras_dlrm.layers.cross_layer import CrossOptions, crossed
from keras_dlrm.layers.mlp import MLP, MLPOptions
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.schema.schema import Schema

STRUCTURES = ("stacked", "parallel")


class CrossNetwork(ClickModel):
    """Base of `DCN` and `DCNv2`; they say which cross layers and which structure.

    Args:
        schema: A fitted `Schema`.
        tables: Options of the tables.
        cross: Options of the cross network.
        deep: Options of the deep network; with no units there is none.
        structure: `"stacked"`: the deep network follows the cross network. `"parallel"`: both start at x₀.
        seed: Seed of all initial weights and of dropout.
    """

    def __init__(
        self,
        schema: Schema | Mapping[str, Any],
        tables: EmbeddingOptions,
        cross: CrossOptions,
        deep: MLPOptions,
        structure: str,
        seed: int | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(schema, seed, **kwargs)
        schema, dtype, (deep_seed, logit_seed) = self.schema, self.dtype_policy, (part_seed(self.seed, i) for i in (1, 2))
        if structure not in STRUCTURES:
            raise ValueError(f"{type(self).__name__}: structure={structure!r} is unknown; use one of {STRUCTURES}.")
        self.structure = structure

        # Layers
        self.embeddings = tables.layer(schema, self.seed, concatenate=True, dtype=dtype)
        self.embedding_dropout = tables.dropout_layer(self.seed, dtype)
        self.crosses = cross.layers(self.seed, dtype)
        self.deep_mlp = MLP(**vars(deep), seed=deep_seed, dtype=dtype, name="deep_mlp") if deep.units else None
        self.logit = keras.layers.Dense(
            1,
            kernel_initializer=ReferenceKernel([logit_seed, 0]),
            bias_initializer=ReferenceBias([logit_seed, 1]),
            dtype="float32",
            name="logit",
        )

        # Shapes: x₀ is (B, n).
        n = schema.n_dense
        if self.embeddings is not None:
            self.embeddings.build((None, schema.width))
            n += self.embeddings.compute_output_shape((None, schema.width))[1] or 0
        for layer in self.crosses:
            layer.build((None, n))
        last = n
        if self.deep_mlp is not None:
            self.deep_mlp.build((None, n))
            last = self.deep_mlp.units[-1] + (n if structure == "parallel" else 0)
        self.logit.build((None, last))
        self.built = True

        # Config
        self._config = {
            **{name: value for name, value in deep.config().items() if name != "units"},
            **vars(tables),
            "cross_layers": cross.cross_layers,
            "deep_mlp": deep.units,
        }

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        x0 = self.features(inputs, training)  # (B, n)
        x = crossed(self.crosses, x0)
        if self.deep_mlp is None:
            return self.logit(x)
        if self.structure == "stacked":
            return self.logit(self.deep_mlp(x, training=training))
        return self.logit(ops.concatenate([x, self.deep_mlp(x0, training=training)], axis=1))

    def features(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """x₀ (B, n): the dense features, then each sparse column's pooled vector."""
        parts = [ops.cast(inputs["dense"], self.compute_dtype)] if self.schema.dense else []
        if self.embeddings is not None:
            parts.append(self.pooled(inputs, training))
        return ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
