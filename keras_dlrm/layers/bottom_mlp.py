"""The MLP that turns dense features into one more feature vector."""

from __future__ import annotations

import keras

from keras_dlrm.layers.mlp import MLP


@keras.saving.register_keras_serializable("keras_dlrm")
class BottomMLP(MLP):
    """Dense features (B, n_dense) → one feature vector (B, D). Every layer is activated, also the last.

    Args:
        units: Width of each layer; the last is D and has to equal the embedding width for a dot interaction.
        activation: Activation after each layer, ReLU in the paper.
        dropout: Share of activations dropped after each layer, in [0, 1).
        batch_norm: Whether to normalise before each activation.
        kernel_l2: L2 factor of the kernels, or 0.
        seed: Seed of the initial weights and of dropout; a fresh one if omitted.

    Source: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems".

    Example:

    >>> BottomMLP([512, 256, 16])(np.ones((2, 13), "float32")).shape[-1]
    16
    """

    activate_last = True
