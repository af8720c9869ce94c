"""Pairwise dot products of feature vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_dlrm")
class DotInteraction(keras.layers.Layer):
    """Dot products of all pairs among F feature vectors: the lower triangle of T·Tᵀ, row by row.

    With features t₀ … t_{F-1} the output is `t₁·t₀, t₂·t₀, t₂·t₁, t₃·t₀, …`, as the reference orders it; with
    `self_interaction` each row i ends with its diagonal element tᵢ·tᵢ. In `DLRM`, t₀ is the bottom MLP's output and
    t₁ … are the sparse features in schema order. (TorchRec takes the upper triangle: weights from there need a
    permutation.)

    Args:
        self_interaction: Whether to add the dot product of each feature with itself.

    Input: (B, F, D), or a list of (B, D) and (B, F', D) tensors that are stacked in order.
    Output: (B, F(F-1)/2), or (B, F(F+1)/2) with `self_interaction`.

    Source: Naumov et al. 2019, section 2.1.3.

    Example:

    >>> DotInteraction()(np.ones((2, 4, 8), "float32")).shape[-1]
    6
    """

    def __init__(self, self_interaction: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.self_interaction = self_interaction

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        features = _stack(inputs) if isinstance(inputs, (list, tuple)) else inputs
        if len(features.shape) != 3:
            raise ValueError(f"DotInteraction: the input has shape {tuple(features.shape)}; it must be (B, F, D).")
        products = ops.matmul(features, ops.transpose(features, (0, 2, 1)))
        keep = 1 if self.self_interaction else 0
        # F slices and one concatenation are faster than an index gather and its scattered gradient.
        rows = [products[:, i, : i + keep] for i in range(features.shape[1]) if i + keep > 0]
        if not rows:
            return products[:, 0, :0]
        return ops.concatenate(rows, axis=1) if len(rows) > 1 else rows[0]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        if isinstance(input_shape[0], (list, tuple)):
            batch, count = input_shape[0][0], sum(1 if len(s) == 2 else s[1] for s in input_shape)
        else:
            batch, count = input_shape[0], input_shape[1]
        return (batch, count * (count + (1 if self.self_interaction else -1)) // 2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "self_interaction": self.self_interaction}


def _stack(tensors: Sequence[Any]) -> Any:
    return ops.concatenate([ops.expand_dims(t, 1) if len(t.shape) == 2 else t for t in tensors], axis=1)
