"""Self-attention among feature vectors."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import ReferenceKernel, new_seed
from keras_dlrm.support.arguments import integer


@keras.saving.register_keras_serializable("keras_dlrm")
class FieldAttention(keras.layers.Layer):
    """Each of F vectors looks at all of them, in several heads: ReLU(softmax(Q Kᵀ) V side by side + X W).

    Args:
        heads: Number of heads H.
        head_dim: Width of each head's queries, keys and values.
        seed: Seed of the initial weights; a fresh one if omitted.

    Input: (B, F, D).
    Output: (B, F, H·head_dim).

    Source: Song et al. 2019, "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks", equations 5
    to 8.

    Example:

    >>> tuple(FieldAttention(heads=2, head_dim=8)(np.ones((2, 4, 3), "float32")).shape)
    (2, 4, 16)
    """

    def __init__(self, heads: int = 2, head_dim: int = 16, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = integer("FieldAttention", "heads", heads)
        self.head_dim = integer("FieldAttention", "head_dim", head_dim)
        self.seed = new_seed(seed)

    def build(self, input_shape: Sequence[int | None]) -> None:
        shape = (input_shape[-1], self.heads * self.head_dim)

        def kernel(name: str, part: int) -> Any:
            return self.add_weight(name=name, shape=shape, initializer=ReferenceKernel([self.seed, part]))

        self.query, self.key, self.value = kernel("query", 0), kernel("key", 1), kernel("value", 2)
        self.residual = kernel("residual", 3)
        self.built = True

    def call(self, inputs: Any) -> Any:
        count, width = inputs.shape[1], self.heads * self.head_dim

        def in_heads(kernel: Any, axes: tuple[int, ...]) -> Any:
            projected = ops.reshape(ops.matmul(inputs, kernel), (-1, count, self.heads, self.head_dim))
            return ops.transpose(projected, axes)

        query, value = (in_heads(kernel, (0, 2, 1, 3)) for kernel in (self.query, self.value))  # (B, H, F, d)
        scores = ops.softmax(ops.matmul(query, in_heads(self.key, (0, 2, 3, 1))), axis=-1)  # (B, H, F, F)
        attended = ops.reshape(ops.transpose(ops.matmul(scores, value), (0, 2, 1, 3)), (-1, count, width))
        return ops.relu(attended + ops.matmul(inputs, self.residual))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.heads * self.head_dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads, "head_dim": self.head_dim, "seed": self.seed}
