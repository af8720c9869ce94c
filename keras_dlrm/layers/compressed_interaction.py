"""Compressed interaction network of xDeepFM."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import ReferenceKernel, new_seed
from keras_dlrm.support.arguments import widths


@keras.saving.register_keras_serializable("keras_dlrm")
class CompressedInteraction(keras.layers.Layer):
    """Feature maps of growing order, each summed over the width of the vectors.

    Xᵏₕ = Σᵢⱼ Wᵏₕᵢⱼ (Xᵏ⁻¹ᵢ ⊙ X⁰ⱼ): each map of layer k weighs the products of all maps before it with all F vectors.

    Args:
        maps: Number of maps of each layer; layer k has products of order k + 1.
        seed: Seed of the initial weights; a fresh one if omitted.

    Input: (B, F, D).
    Output: (B, Σ maps).

    Source: Lian et al. 2018, "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems", equation 6.

    Example:

    >>> tuple(CompressedInteraction([5, 3])(np.ones((2, 4, 8), "float32")).shape)
    (2, 8)
    """

    def __init__(self, maps: Sequence[int] = (100, 100), seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.maps = widths("CompressedInteraction", "maps", maps)
        if not self.maps:
            raise ValueError("CompressedInteraction: maps=[] must have at least one entry.")
        self.seed = new_seed(seed)

    def build(self, input_shape: Sequence[int | None]) -> None:
        count = int(input_shape[1] or 0)
        self.kernels = []
        for i, (before, after) in enumerate(zip([count, *self.maps], self.maps, strict=False)):
            initializer = ReferenceKernel([self.seed, i])
            self.kernels.append(self.add_weight(name=f"kernel_{i}", shape=(before * count, after), initializer=initializer))
        self.built = True

    def call(self, inputs: Any) -> Any:
        count, width = inputs.shape[1:]
        first = ops.transpose(inputs, (0, 2, 1))  # (B, D, F)
        maps, sums = first, []
        for kernel in self.kernels:
            products = ops.expand_dims(maps, 3) * ops.expand_dims(first, 2)  # (B, D, H, F)
            maps = ops.matmul(ops.reshape(products, (-1, width, maps.shape[2] * count)), kernel)
            sums.append(ops.sum(maps, axis=1))
        return ops.concatenate(sums, axis=1) if len(sums) > 1 else sums[0]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, int]:
        return (input_shape[0], sum(self.maps))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "maps": self.maps, "seed": self.seed}
