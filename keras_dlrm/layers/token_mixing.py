"""Layers of RankMixer: mixing of tokens without parameters, and an MLP of each token's own."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import ReferenceProjection, new_seed
from keras_dlrm.support.arguments import integer


@keras.saving.register_keras_serializable("keras_dlrm")
class TokenMixing(keras.layers.Layer):
    """Part t of each of T tokens, side by side, is token t: a transpose of the T parts into which each token is cut.

    Input: (B, T, D), D a multiple of T.
    Output: (B, T, D).

    Raises:
        ValueError: D is no multiple of T.

    Source: Zhu et al. 2025, "RankMixer: Scaling Up Ranking Models in Industrial Recommenders", section 3.3.1.

    Example:

    >>> keras.ops.convert_to_numpy(TokenMixing()(np.array([[[1.0, 2.0], [3.0, 4.0]]], "float32"))).tolist()
    [[[1.0, 3.0], [2.0, 4.0]]]
    """

    def build(self, input_shape: Sequence[int | None]) -> None:
        tokens, width = (int(n or 0) for n in input_shape[1:])
        if width % tokens:
            raise ValueError(f"TokenMixing: the input has {tokens} tokens of width {width}; make it a multiple of {tokens}.")
        self.built = True

    def call(self, inputs: Any) -> Any:
        tokens, width = inputs.shape[1:]
        parts = ops.reshape(inputs, (-1, tokens, tokens, width // tokens))
        return ops.reshape(ops.transpose(parts, (0, 2, 1, 3)), (-1, tokens, width))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Any:
        return input_shape


@keras.saving.register_keras_serializable("keras_dlrm")
class PerTokenMLP(keras.layers.Layer):
    """Each token through an MLP of its own: Vₜ GELU(Wₜ x + bₜ) + cₜ.

    Args:
        ratio: Width of the hidden layer, in widths of a token.
        seed: Seed of the initial weights; a fresh one if omitted.

    Input: (B, T, D).
    Output: (B, T, D).

    Source: Zhu et al. 2025, section 3.3.2.

    Example:

    >>> tuple(PerTokenMLP(ratio=2)(np.ones((2, 3, 6), "float32")).shape)
    (2, 3, 6)
    """

    def __init__(self, ratio: int = 4, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ratio = integer("PerTokenMLP", "ratio", ratio)
        self.seed = new_seed(seed)

    def build(self, input_shape: Sequence[int | None]) -> None:
        tokens, width = (int(n or 0) for n in input_shape[1:])

        def weights(name: str, before: int, after: int, part: int) -> tuple[Any, Any]:
            initializer = ReferenceProjection([self.seed, part])
            kernel = self.add_weight(name=name, shape=(tokens, before, after), initializer=initializer)
            return kernel, self.add_weight(name=f"{name}_bias", shape=(tokens, 1, after), initializer="zeros")

        self.hidden = weights("hidden", width, self.ratio * width, 0)
        self.output_weights = weights("output", self.ratio * width, width, 1)
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = ops.transpose(inputs, (1, 0, 2))  # (T, B, D)
        for i, (kernel, bias) in enumerate((self.hidden, self.output_weights)):
            kernel, bias = (ops.cast(each, self.compute_dtype) for each in (kernel, bias))
            x = ops.matmul(x, kernel) + bias
            x = ops.gelu(x, approximate=False) if i == 0 else x
        return ops.transpose(x, (1, 0, 2))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ratio": self.ratio, "seed": self.seed}
