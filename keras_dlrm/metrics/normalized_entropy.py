"""Normalized entropy: log loss relative to always predicting the mean click rate."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_dlrm.metrics.inputs import ClickMetric
from keras_dlrm.metrics.running_sum import RunningSum
from keras_dlrm.metrics.scores import EPSILON


@keras.saving.register_keras_serializable(package="keras_dlrm")
class NormalizedEntropy(ClickMetric):
    """Mean log loss divided by the entropy of the mean click rate; below 1 is better than the base rate.

    Log loss alone says little across data sets, since a rare label makes it small for any model. Dividing by the log
    loss of the best constant prediction removes that.

    The metric computes in float32 whatever the dtype of `y_pred`, and clips probabilities to [1e-7, 1 - 1e-7]. Its
    state is three sums of two float32 parts each (`RunningSum`), so billions of rows do not saturate it and replicas
    may add their states. While the entropy of the labels is zero — no row yet, or only one class so far — the ratio is
    undefined and the result is 1, "no better than the base rate": finite, and never mistaken for a good value. A label
    or probability of NaN makes it NaN.

    Args:
        name: Name of the metric.

    Example:

    >>> metric = NormalizedEntropy()
    >>> metric.update_state(np.array([0, 1, 0, 1]), np.array([0.5, 0.5, 0.5, 0.5]))
    >>> round(float(metric.result()), 4)
    1.0

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014, equation 3.
    """

    def __init__(self, name: str = "normalized_entropy") -> None:
        super().__init__(name)
        self._loss = RunningSum(self, "loss")
        self._clicks = RunningSum(self, "clicks")
        self._rows = RunningSum(self, "rows")

    def add(self, labels: Any, probabilities: Any, weights: Any) -> None:
        clipped = ops.clip(probabilities, EPSILON, 1.0 - EPSILON)
        loss = -(labels * ops.log(clipped) + (1.0 - labels) * ops.log(1.0 - clipped))
        self._loss.add(ops.sum(weights * loss))
        self._clicks.add(ops.sum(weights * labels))
        self._rows.add(ops.sum(weights))

    def result(self) -> Any:
        """The normalized entropy of everything seen since the last reset, a float32 scalar tensor."""
        rows = self._rows.value()
        rate = ops.divide_no_nan(self._clicks.value(), rows)
        loss = ops.divide_no_nan(self._loss.value(), rows)
        # Neither comparison holds for NaN, which is to stay one.
        constant = ops.logical_or(rate <= 0.0, rate >= 1.0)
        inside = ops.where(constant, 0.5, rate)
        entropy = -(inside * ops.log(inside) + (1.0 - inside) * ops.log(1.0 - inside))
        return ops.where(ops.logical_and(constant, ops.logical_not(ops.isnan(loss))), 1.0, loss / entropy)
