"""Inputs of the streaming metrics: labels and probabilities of B examples as flat float32 tensors."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


class ClickMetric(keras.metrics.Metric):
    """Base of metrics that sum over rows in float32; a subclass has `add` and `result`.

    Args:
        name: Name of the metric.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name, dtype="float32")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch.

        Args:
            y_true: Labels, 0 or 1, (B,) or (B, 1).
            y_pred: Probabilities, (B,) or (B, 1), any float dtype.
            sample_weight: Weights of the examples: `None`, a scalar, (B,) or (B, 1).

        Raises:
            ValueError: the shapes do not agree.
        """
        self.add(*flat_inputs(self.name, y_true, y_pred, sample_weight))

    def add(self, labels: Any, probabilities: Any, weights: Any) -> None:
        """Add the rows of a batch, float32 (B,) each."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the metric again."""
        return {"name": self.name}


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
