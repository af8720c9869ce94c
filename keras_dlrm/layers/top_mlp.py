"""The MLP that turns interactions into logits."""

from __future__ import annotations

import keras

from keras_dlrm.layers.mlp import MLP


@keras.saving.register_keras_serializable("keras_dlrm")
class TopMLP(MLP):
    """Interactions (B, n) → logits (B, units[-1]) in float32. The last layer is linear; models apply the sigmoid.

    Args:
        units: Width of each layer; the last is 1 for a click probability.
        activation: Activation of the hidden layers, ReLU in the paper.
        dropout: Share of activations dropped after each hidden layer, in [0, 1).
        batch_norm: Whether to normalise before each activation.
        kernel_l2: L2 factor of the kernels, or 0.
        seed: Seed of the initial weights and of dropout; a fresh one if omitted.

    Source: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems".

    Example:

    >>> TopMLP([64, 1])(np.ones((2, 30), "float32")).shape[-1]
    1
    """

    activate_last = False
