"""Gated cross layer of GDCN."""

from typing import Any

import keras
from keras import ops

from keras_dlrm import backend
from keras_dlrm.initializers import ReferenceKernel, new_seed
from keras_dlrm.support.arguments import number


@keras.saving.register_keras_serializable("keras_dlrm")
class GatedCross(keras.layers.Layer):
    """A feature cross of x₀ (B, n) with xₗ (B, n) that passes a gate: x₀ ⊙ (W xₗ + b) ⊙ σ(V xₗ) + xₗ.

    Args:
        kernel_l2: L2 factor of W and V, or 0.
        seed: Seed of the initial weights; a fresh one if omitted.

    Call arguments:
        x0: (B, n), the network's input.
        x: (B, n), the previous layer's output; x0 if omitted.

    Source: Wang et al. 2023, "Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction", equation 2.

    Example:

    >>> x0 = np.ones((2, 5), "float32")
    >>> tuple(GatedCross()(x0, GatedCross()(x0)).shape)
    (2, 5)
    """

    def __init__(self, kernel_l2: float = 0.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_l2 = number("GatedCross", "kernel_l2", kernel_l2)
        self.seed = new_seed(seed)

    def build(self, x0_shape: Any, x_shape: Any = None) -> None:
        n = x0_shape[-1]
        options = {"shape": (n, n), "regularizer": keras.regularizers.L2(self.kernel_l2) if self.kernel_l2 else None}
        self.kernel = self.add_weight(name="kernel", initializer=ReferenceKernel([self.seed, 0]), **options)
        self.gate = self.add_weight(name="gate", initializer=ReferenceKernel([self.seed, 1]), **options)
        self.bias = self.add_weight(name="bias", shape=(n,), initializer="zeros")
        self.built = True

    def call(self, x0: Any, x: Any = None) -> Any:
        x = x0 if x is None else x
        return x0 * (backend.project(x, self.kernel) + self.bias) * ops.sigmoid(backend.project(x, self.gate)) + x

    def compute_output_shape(self, x0_shape: Any, x_shape: Any = None) -> Any:
        return x0_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kernel_l2": self.kernel_l2, "seed": self.seed}
