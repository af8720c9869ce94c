"""The interaction that leaves all crossing to the top MLP."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_dlrm")
class ConcatenationInteraction(keras.layers.Layer):
    """Feature vectors side by side: (B, F, D) → (B, F·D), or a list of (B, n) and (B, F, D) tensors → (B, Σ).

    Source: the reference's `--arch-interaction-op cat`.

    Example:

    >>> ConcatenationInteraction()([np.ones((2, 13), "float32"), np.ones((2, 4, 8), "float32")]).shape[-1]
    45
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = True  # without a first batch

    def call(self, inputs: Any) -> Any:
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        flat = [ops.reshape(t, (-1, t.shape[1] * t.shape[2])) if len(t.shape) == 3 else t for t in tensors]
        return ops.concatenate(flat, axis=1) if len(flat) > 1 else flat[0]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        shapes = input_shape if isinstance(input_shape[0], (list, tuple)) else [input_shape]
        return (shapes[0][0], sum(s[1] * s[2] if len(s) == 3 else s[1] for s in shapes))
