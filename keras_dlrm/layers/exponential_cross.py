"""Cross layer of DCNv3, whose order of crossing doubles."""

from typing import Any

import keras
from keras import ops

from keras_dlrm import backend
from keras_dlrm.initializers import ReferenceKernel, new_seed
from keras_dlrm.support.arguments import number


@keras.saving.register_keras_serializable("keras_dlrm")
class ExponentialCross(keras.layers.Layer):
    """x ⊙ (c + b) + x with c = [h, h ⊙ ReLU(LN h)] and h = W x of half the width: the order of crossing doubles.

    With an x₀ in front it is x₀ ⊙ (c + b) + x: the order grows by one.

    Args:
        kernel_l2: L2 factor of W, or 0.
        seed: Seed of the initial weights; a fresh one if omitted.

    Call arguments:
        x: (B, n), the previous layer's output; n is even.
        x0: (B, n), the network's input; x if omitted.

    Raises:
        ValueError: n is odd.

    Source: Li et al. 2024, "DCNv3: Towards Next Generation Deep Cross Network for Click-Through Rate Prediction", equations 2
    and 3.

    Example:

    >>> tuple(ExponentialCross()(np.ones((2, 6), "float32")).shape)
    (2, 6)
    """

    def __init__(self, kernel_l2: float = 0.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_l2 = number("ExponentialCross", "kernel_l2", kernel_l2)
        self.seed = new_seed(seed)
        self.norm = keras.layers.LayerNormalization(dtype=self.dtype_policy, name="norm")

    def build(self, x_shape: Any, x0_shape: Any = None) -> None:
        n = x_shape[-1]
        if n % 2:
            raise ValueError(f"ExponentialCross: the input has {n} numbers a row; give an even number.")
        regularizer = keras.regularizers.L2(self.kernel_l2) if self.kernel_l2 else None
        initializer = ReferenceKernel([self.seed, 0])
        self.kernel = self.add_weight(name="kernel", shape=(n, n // 2), initializer=initializer, regularizer=regularizer)
        self.bias = self.add_weight(name="bias", shape=(n,), initializer="zeros")
        self.norm.build((None, n // 2))
        self.built = True

    def call(self, x: Any, x0: Any = None) -> Any:
        half = backend.project(x, self.kernel)
        cross = ops.concatenate([half, half * ops.relu(self.norm(half))], axis=1)
        return (x if x0 is None else x0) * (cross + self.bias) + x

    def compute_output_shape(self, x_shape: Any, x0_shape: Any = None) -> Any:
        return x_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kernel_l2": self.kernel_l2, "seed": self.seed}
