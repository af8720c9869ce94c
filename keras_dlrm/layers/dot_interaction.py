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
        return _pairwise(features, 1 if self.self_interaction else 0)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        if isinstance(input_shape[0], (list, tuple)):
            batch, count = input_shape[0][0], sum(1 if len(s) == 2 else s[1] for s in input_shape)
        else:
            batch, count = input_shape[0], input_shape[1]
        return (batch, count * (count + (1 if self.self_interaction else -1)) // 2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "self_interaction": self.self_interaction}


def _pairwise(features: Any, keep: int) -> Any:
    """The lower triangle of T Tᵀ for T (B, F, D), row by row, with the diagonal if `keep` is 1."""
    count = features.shape[1]
    widths = [i + keep for i in range(count)]
    if not sum(widths):
        return features[:, 0, :0]

    @ops.custom_gradient
    def triangle(features: Any) -> Any:
        products = ops.matmul(features, ops.transpose(features, (0, 2, 1)))
        # Slices and one concatenation are faster than an index gather.
        rows = [products[:, i, :width] for i, width in enumerate(widths) if width]
        out = ops.concatenate(rows, axis=1) if len(rows) > 1 else rows[0]

        def gradient(*args: Any, upstream: Any = None) -> Any:
            # Of F slices TensorFlow would make F gradients of the size of T Tᵀ and add them up.
            upstream = args[0] if upstream is None else upstream
            pieces, start = [], 0
            for width in widths:
                if width:
                    pieces.append(upstream[:, start : start + width])
                if width < count:
                    pieces.append(ops.zeros_like(products[:, 0, : count - width]))
                start += width
            lower = ops.reshape(ops.concatenate(pieces, axis=1), ops.shape(products))
            return ops.matmul(lower + ops.transpose(lower, (0, 2, 1)), features)

        return out, gradient

    return triangle(features)


def _stack(tensors: Sequence[Any]) -> Any:
    return ops.concatenate([ops.expand_dims(t, 1) if len(t.shape) == 2 else t for t in tensors], axis=1)
