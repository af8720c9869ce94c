"""Bilinear fusion of two networks."""

from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import ReferenceKernel, new_seed
from keras_dlrm.support.arguments import integer


@keras.saving.register_keras_serializable("keras_dlrm")
class BilinearFusion(keras.layers.Layer):
    """Outputs of two networks to one logit: b + u·x + v·y + Σₕ xₕᵀ Wₕ yₕ, over the heads h into which x and y are cut.

    The logit is float32, as the last layer's of any network here.

    Args:
        heads: Number of heads H; one is the whole bilinear form.
        seed: Seed of the initial weights; a fresh one if omitted.

    Call arguments:
        x: (B, n), n a multiple of `heads`.
        y: (B, m), likewise.

    Output: float32 (B, 1).

    Raises:
        ValueError: a width is no multiple of the heads.

    Source: Mao et al. 2023, "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", equations 8 to 10.

    Example:

    >>> tuple(BilinearFusion(heads=2)(np.ones((3, 4), "float32"), np.ones((3, 6), "float32")).shape)
    (3, 1)
    """

    def __init__(self, heads: int = 1, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.heads = integer("BilinearFusion", "heads", heads)
        self.seed = new_seed(seed)

    def build(self, x_shape: Any, y_shape: Any) -> None:
        n, m = x_shape[-1], y_shape[-1]
        for name, width in (("x", n), ("y", m)):
            if width % self.heads:
                raise ValueError(f"BilinearFusion: {name} has {width} numbers a row, no multiple of heads={self.heads}.")
        self.of_x = self.add_weight(name="of_x", shape=(n, 1), initializer=ReferenceKernel([self.seed, 0]))
        self.of_y = self.add_weight(name="of_y", shape=(m, 1), initializer=ReferenceKernel([self.seed, 1]))
        # Wₕ below one another: (n, m / H)
        self.kernel = self.add_weight(name="kernel", shape=(n, m // self.heads), initializer=ReferenceKernel([self.seed, 2]))
        self.bias = self.add_weight(name="bias", shape=(1,), initializer="zeros")
        self.built = True

    def call(self, x: Any, y: Any) -> Any:
        n, m, heads = x.shape[1], y.shape[1], self.heads
        kernel = ops.reshape(self.kernel, (heads, n // heads, m // heads))
        in_heads = ops.transpose(ops.reshape(x, (-1, heads, n // heads)), (1, 0, 2))
        products = ops.transpose(ops.matmul(in_heads, kernel), (1, 0, 2))  # (B, H, m / H)
        fused = ops.sum(ops.reshape(products, (-1, m)) * y, axis=1, keepdims=True)
        return ops.matmul(x, self.of_x) + ops.matmul(y, self.of_y) + fused + self.bias

    def compute_output_shape(self, x_shape: Any, y_shape: Any) -> tuple[int | None, int]:
        return (x_shape[0], 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads, "seed": self.seed}
