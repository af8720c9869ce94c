"""The second-order term of factorization machines."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_dlrm")
class FactorizationMachine(keras.layers.Layer):
    """Element-wise products of all pairs of F vectors, summed over the pairs: (B, F, D) → (B, D), in O(F·D).

    ½[(Σᵢ vᵢ)² - Σᵢ vᵢ²]. The sum of its D elements is the second-order term of a factorization machine; the vector itself is the
    bi-interaction pooling of neural factorization machines, and an interaction for `DLRM`.

    Source: Rendle 2010, "Factorization Machines", lemma 3.1; He and Chua 2017, "Neural Factorization Machines", equation 4.

    Example:

    >>> keras.ops.convert_to_numpy(FactorizationMachine()(np.array([[[1.0, 2.0], [3.0, 4.0]]], "float32"))).tolist()
    [[3.0, 8.0]]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = True  # without a first batch

    def call(self, inputs: Any) -> Any:
        if len(inputs.shape) != 3:
            raise ValueError(f"FactorizationMachine: the input has shape {tuple(inputs.shape)}; it must be (B, F, D).")
        return 0.5 * (ops.square(ops.sum(inputs, axis=1)) - ops.sum(ops.square(inputs), axis=1))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, int | None]:
        return (input_shape[0], input_shape[2])
