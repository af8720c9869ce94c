"""MaskNet."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.mask_block import MaskBlock
from keras_dlrm.models.field_model import DeepModel
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import choice, integer


@keras.saving.register_keras_serializable("keras_dlrm")
class MaskNet(DeepModel):
    """Mask blocks on the normalized vectors, side by side or one after another, and a deep network of their output.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        structure: `"parallel"`: each block masks the vectors. `"serial"`: each masks the output of the block before.
        blocks: How many blocks.
        block_units: Width of each block's output.
        mask_units: Width of the hidden layer that makes a mask.
        **kwargs: Further arguments of `DeepModel` and `FieldModel`, such as `deep_mlp`.

    Source: Wang et al. 2021, "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided Mask",
    figures 3 and 4.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> MaskNet(schema, embedding_dim=4, blocks=1, block_units=5, mask_units=3, deep_mlp=[8]).count_params()
    222
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, structure: str = "parallel", blocks: int = 3,
        block_units: int = 64, mask_units: int = 64, **kwargs: Any,
    ) -> None:  # fmt: skip
        choice("MaskNet", "structure", structure, ("parallel", "serial"))
        blocks = integer("MaskNet", "blocks", blocks)
        super().__init__(schema, embedding_dim, **kwargs)
        self.structure = structure
        self.norm = keras.layers.LayerNormalization(dtype=self.dtype_policy, name="norm")
        self.norm.build((None, len(self.columns), self.width))
        n = len(self.columns) * self.width
        self.blocks = []
        for i in range(blocks):
            options = {"seed": part_seed(self.seed, 3, i), "dtype": self.dtype_policy, "name": f"block_{i}"}
            block = MaskBlock(block_units, mask_units, **options)
            block.build((None, n), (None, block_units if i and structure == "serial" else n))
            self.blocks.append(block)
        self.deep_mlp = self.deep_network(block_units * (blocks if structure == "parallel" else 1))
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        x0, x = self.side_by_side(vectors), self.side_by_side(self.norm(vectors))
        if self.structure == "parallel":
            x = ops.concatenate([block(x0, x) for block in self.blocks], axis=1)
        else:
            for block in self.blocks:
                x = block(x0, x)
        return first_order + self.deep_mlp(x, training=training)
