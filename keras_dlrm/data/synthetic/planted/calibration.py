"""Scale and shift of logits for a given click rate and AUC."""

from __future__ import annotations

import numpy as np

from keras_dlrm.data.synthetic.expectation import expected_auc


def sigmoid(x: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-x))`, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def scale_and_bias(logit: np.ndarray, click_rate: float, target_auc: float) -> tuple[float, float]:
    """Scale and bias that give `sigmoid(scale * logit + bias)` a mean and an AUC, in expectation; AUC 0.5 gives scale 0.

    Example:

    >>> scale, bias = scale_and_bias(np.linspace(-1, 1, 1001), 0.5, 0.75)
    >>> bool(abs(bias) < 0.01), bool(1.0 < scale < 3.0)
    (True, True)
    """
    low, high = 0.0, 32.0
    for _ in range(24):
        scale = (low + high) / 2.0
        auc = expected_auc(sigmoid(scale * logit + _bias(scale * logit, click_rate)))
        low, high = (scale, high) if auc < target_auc else (low, scale)
    return scale, _bias(scale * logit, click_rate)


def _bias(logit: np.ndarray, click_rate: float) -> float:
    low, high = -64.0, 64.0
    for _ in range(32):
        bias = (low + high) / 2.0
        low, high = (bias, high) if sigmoid(logit + bias).mean() < click_rate else (low, bias)
    return bias
