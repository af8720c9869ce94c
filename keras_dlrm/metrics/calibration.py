"""Calibration: predicted clicks over observed clicks."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_dlrm.metrics.inputs import ClickMetric
from keras_dlrm.metrics.running_sum import RunningSum


@keras.saving.register_keras_serializable(package="keras_dlrm")
class Calibration(ClickMetric):
    """Sum of the predicted probabilities divided by the number of clicks; 1 is right on average.

    Above 1 the model promises more clicks than come, which overprices impressions; AUC cannot see this. The metric
    sums in float32 pairs (`RunningSum`), whatever the dtype of `y_pred`. Until the first click is seen the ratio is
    undefined and the result is 0.

    Args:
        name: Name of the metric.

    Example:

    >>> metric = Calibration()
    >>> metric.update_state(np.array([0, 1, 0, 0]), np.array([0.25, 0.5, 0.25, 0.5]))
    >>> float(metric.result())
    1.5

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014, section 2.
    """

    def __init__(self, name: str = "calibration") -> None:
        super().__init__(name)
        self._predicted = RunningSum(self, "predicted")
        self._observed = RunningSum(self, "observed")

    def add(self, labels: Any, probabilities: Any, weights: Any) -> None:
        self._predicted.add(ops.sum(weights * probabilities))
        self._observed.add(ops.sum(weights * labels))

    def result(self) -> Any:
        """Predicted over observed clicks since the last reset, a float32 scalar tensor."""
        return ops.divide_no_nan(self._predicted.value(), self._observed.value())
