"""Inputs of the streaming metrics: labels and probabilities of B examples as flat float32 tensors."""

from __future__ import annotations

import math
from typing import Any

from keras import ops


def flat_inputs(metric: str, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[Any, Any, Any]:
    """Labels, probabilities and weights as float32 tensors of shape (B,).

    Each comes as (B,) or (B, 1), weights also as `None` or a scalar. Other numbers of them are a `ValueError` in the name of
    `metric`, as far as shapes are known.

    Example:

    >>> labels, probabilities, weights = flat_inputs("ne", np.array([0, 1]), np.array([[0.25], [0.5]]))
    >>> tuple(labels.shape), tuple(probabilities.shape), tuple(weights.shape)
    ((2,), (2,), (2,))
    """
    labels = ops.convert_to_tensor(y_true)
    probabilities = ops.convert_to_tensor(y_pred)
    _check_sizes(metric, "y_true", labels.shape, probabilities.shape)
    probabilities = ops.reshape(ops.cast(probabilities, "float32"), (-1,))
    labels = ops.reshape(ops.cast(labels, "float32"), (-1,))
    if sample_weight is None:
        return labels, probabilities, ops.ones_like(probabilities)
    weights = ops.convert_to_tensor(sample_weight)
    if len(weights.shape) > 0:
        _check_sizes(metric, "sample_weight", weights.shape, probabilities.shape)
        return labels, probabilities, ops.reshape(ops.cast(weights, "float32"), (-1,))
    return labels, probabilities, ops.ones_like(probabilities) * ops.cast(weights, "float32")


def _check_sizes(metric: str, argument: str, shape: Any, expected: Any) -> None:
    if None in (*shape, *expected):
        return
    if math.prod(shape) != math.prod(expected):
        raise ValueError(
            f"{metric}: {argument} has shape {tuple(shape)} but y_pred has shape {tuple(expected)}; give one value per "
            "example, (B,) or (B, 1)."
        )
