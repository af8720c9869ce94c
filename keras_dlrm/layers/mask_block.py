"""Mask block of MaskNet."""

from typing import Any

import keras
from keras import ops

from keras_dlrm import backend
from keras_dlrm.initializers import ReferenceKernel, new_seed
from keras_dlrm.support.arguments import integer


@keras.saving.register_keras_serializable("keras_dlrm")
class MaskBlock(keras.layers.Layer):
    """ReLU(LN(W (x ⊙ mask))), where all features of the example make the mask: W₂ ReLU(W₁ x₀ + b₁) + b₂.

    Args:
        units: Width of the output.
        mask_units: Width of the mask's hidden layer.
        seed: Seed of the initial weights; a fresh one if omitted.

    Call arguments:
        x0: (B, n), all feature vectors side by side.
        x: (B, m), what is masked: the output of the block before; x0 if omitted.

    Output: (B, units).

    Source: Wang et al. 2021, "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided Mask",
    equations 3 to 7.

    Example:

    >>> x0 = np.ones((2, 6), "float32")
    >>> tuple(MaskBlock(3)(x0, MaskBlock(4)(x0)).shape)
    (2, 3)
    """

    def __init__(self, units: int, mask_units: int = 64, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = integer("MaskBlock", "units", units)
        self.mask_units = integer("MaskBlock", "mask_units", mask_units)
        self.seed = new_seed(seed)
        self.norm = keras.layers.LayerNormalization(dtype=self.dtype_policy, name="norm")

    def build(self, x0_shape: Any, x_shape: Any = None) -> None:
        width = (x_shape or x0_shape)[-1]
        sizes = (("hidden", x0_shape[-1], self.mask_units), ("mask", self.mask_units, width), ("kernel", width, self.units))
        for i, (name, before, after) in enumerate(sizes):
            setattr(self, name, self.add_weight(name=name, shape=(before, after), initializer=ReferenceKernel([self.seed, i])))
        self.hidden_bias = self.add_weight(name="hidden_bias", shape=(self.mask_units,), initializer="zeros")
        self.mask_bias = self.add_weight(name="mask_bias", shape=(width,), initializer="ones")
        self.norm.build((None, self.units))
        self.built = True

    def call(self, x0: Any, x: Any = None) -> Any:
        x = x0 if x is None else x
        mask = backend.project(ops.relu(backend.project(x0, self.hidden) + self.hidden_bias), self.mask) + self.mask_bias
        return ops.relu(self.norm(backend.project(mask * x, self.kernel)))

    def compute_output_shape(self, x0_shape: Any, x_shape: Any = None) -> tuple[int | None, int]:
        return (x0_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "mask_units": self.mask_units, "seed": self.seed}
