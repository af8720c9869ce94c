"""Pairwise dot products of feature vectors."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend


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
        self.built = True  # without a first batch

    def call(self, inputs: Any) -> Any:
        features = inputs
        if isinstance(inputs, (list, tuple)):
            features = ops.concatenate([ops.expand_dims(t, 1) if len(t.shape) == 2 else t for t in inputs], axis=1)
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
    rows, columns = np.tril_indices(count, keep - 1)
    if not len(rows):
        return features[:, 0, :0]
    # Where in a flat F x F matrix the outputs stand, and which output each place of the matrix is; beyond the last one: none.
    lower = (rows * count + columns).astype(np.int32)
    outputs = np.full((count, count), len(rows), np.int32)
    outputs[rows, columns] = outputs[columns, rows] = np.arange(len(rows))

    @ops.custom_gradient
    def triangle(features: Any) -> Any:
        products = ops.matmul(features, ops.transpose(features, (0, 2, 1)))
        out = backend.take_columns(ops.reshape(products, (-1, count * count)), lower)

        def gradient(*args: Any, upstream: Any = None) -> Any:
            # G T for the symmetric G whose triangle is the gradient: one product and no sum of two triangles' gradients.
            upstream = args[0] if upstream is None else upstream
            symmetric = backend.take_columns(ops.pad(upstream, ((0, 0), (0, 1))), outputs.reshape(-1))
            symmetric = ops.reshape(symmetric, (-1, count, count))
            if keep:
                # The derivative of tᵢ·tᵢ is 2 tᵢ.
                symmetric = symmetric * ops.cast(1 + np.eye(count), symmetric.dtype)
            return ops.matmul(symmetric, features)

        return out, gradient

    return triangle(features)
