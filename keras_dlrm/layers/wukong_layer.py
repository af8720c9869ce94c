"""Layer of Wukong: a factorization machine block beside a linear compression."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import ReferenceKernel, new_seed, part_seed
from keras_dlrm.layers.mlp import TopMLP
from keras_dlrm.support.arguments import integer, widths


@keras.saving.register_keras_serializable("keras_dlrm")
class WukongLayer(keras.layers.Layer):
    """LN([FMB(X), LCB(X)] + residual): after l of these the vectors hold products of order 2ˡ.

    FMB: an MLP of the products X Xᵀ Y, normalized, to new vectors; Y has k columns, so that it costs O(F·D·k). LCB: linear
    combinations of the vectors. The residual is X, or linear combinations of its vectors where their number changes.

    Args:
        fm_vectors: Number of vectors of the factorization machine block.
        linear_vectors: Number of vectors of the linear compression.
        rank: Columns k of Y.
        mlp: Widths of the hidden layers of the block's MLP.
        seed: Seed of the initial weights; a fresh one if omitted.

    Input: (B, F, D).
    Output: (B, fm_vectors + linear_vectors, D).

    Source: Zhang et al. 2024, "Wukong: Towards a Scaling Law for Large-Scale Recommendation", section 3.

    Example:

    >>> tuple(WukongLayer(fm_vectors=3, linear_vectors=2, rank=4)(np.ones((2, 5, 8), "float32")).shape)
    (2, 5, 8)
    """

    def __init__(
        self, fm_vectors: int = 16, linear_vectors: int = 16, rank: int = 16, mlp: Sequence[int] = (256,),
        seed: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.fm_vectors = integer("WukongLayer", "fm_vectors", fm_vectors)
        self.linear_vectors = integer("WukongLayer", "linear_vectors", linear_vectors)
        self.rank = integer("WukongLayer", "rank", rank)
        self.mlp = widths("WukongLayer", "mlp", mlp)
        self.seed = new_seed(seed)
        self.before = keras.layers.LayerNormalization(dtype=self.dtype_policy, name="before")
        self.after = keras.layers.LayerNormalization(dtype=self.dtype_policy, name="after")

    def build(self, input_shape: Sequence[int | None]) -> None:
        count, width = (int(n or 0) for n in input_shape[1:])
        total = self.fm_vectors + self.linear_vectors

        def kernel(name: str, columns: int, part: int) -> Any:
            return self.add_weight(name=name, shape=(count, columns), initializer=ReferenceKernel([self.seed, part]))

        self.projection, self.compression = kernel("projection", self.rank, 0), kernel("compression", self.linear_vectors, 1)
        self.residual = None if count == total else kernel("residual", total, 2)
        self.before.build((None, count * self.rank))
        seed, units = part_seed(self.seed, 3), [*self.mlp, self.fm_vectors * width]
        self.to_vectors = TopMLP(units, seed=seed, dtype=self.dtype_policy, name="to_vectors")
        self.to_vectors.build((None, count * self.rank))
        self.after.build((None, total, width))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        count, width = inputs.shape[1:]
        columns = ops.transpose(inputs, (0, 2, 1))  # (B, D, F)
        products = ops.matmul(inputs, ops.matmul(columns, self.projection))  # X (Xᵀ Y): (B, F, k)
        products = self.before(ops.reshape(products, (-1, count * self.rank)))
        crossed = ops.cast(self.to_vectors(products, training=training), self.compute_dtype)
        linear = ops.transpose(ops.matmul(columns, self.compression), (0, 2, 1))
        residual = inputs if self.residual is None else ops.transpose(ops.matmul(columns, self.residual), (0, 2, 1))
        vectors = ops.concatenate([ops.reshape(crossed, (-1, self.fm_vectors, width)), linear], axis=1)
        return self.after(vectors + residual)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], self.fm_vectors + self.linear_vectors, input_shape[2])

    def get_config(self) -> dict[str, Any]:
        options = ("fm_vectors", "linear_vectors", "rank", "mlp", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in options}}
