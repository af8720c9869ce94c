"""Streaming metrics: sums over batches that do not saturate, calibration, log loss, normalized entropy, a count."""

import math
from typing import Any

import keras
from keras import ops

from keras_dlrm import backend
from keras_dlrm.metrics.scores import EPSILON


class RunningSum:
    """A streaming sum kept as two float32 variables, `high + low`, with about 48 significant bits.

    A plain float32 sum of counts stops growing correctly after 2²⁴ (1.7e7) rows. A running mean avoids that but cannot
    be merged: replicas of a distributed metric add their variables, and means do not add. Two parts do both.

    Source: D. E. Knuth, The Art of Computer Programming 2, 4.2.2, theorem B (the exact error of a float addition).
    """

    def __init__(self, metric: keras.metrics.Metric, name: str) -> None:
        self.high = metric.add_variable(shape=(), initializer="zeros", dtype="float32", name=f"{name}_high")
        self.low = metric.add_variable(shape=(), initializer="zeros", dtype="float32", name=f"{name}_low")

    def add(self, part: Any) -> None:
        """Add a float32 scalar tensor."""
        high = ops.convert_to_tensor(self.high)
        total, error = _two_sum(high, part)
        # `low` stays small compared with `high`: what it has gathered moves over as soon as `high` can hold it.
        total, low = _two_sum(total, ops.convert_to_tensor(self.low) + error)
        self.high.assign(total)
        self.low.assign(low)

    def value(self) -> Any:
        """The sum as a float32 scalar tensor, rounded once."""
        return ops.convert_to_tensor(self.high) + ops.convert_to_tensor(self.low)


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The float32 sum of two scalars and the exact rounding error of that sum."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


class ClickMetric(keras.metrics.Metric):
    """Base of metrics that sum over rows in float32; a subclass has `add` and `result`."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, dtype="float32")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add labels of 0 or 1, probabilities of any float dtype and weights, or `None`, of a batch: (B,) or (B, 1) each."""
        self.add(*flat_inputs(self.name, y_true, y_pred, sample_weight))

    def add(self, labels: Any, probabilities: Any, weights: Any) -> None:
        """Add the rows of a batch, float32 (B,) each."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the metric again."""
        return {"name": self.name}


def flat_inputs(metric: str, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[Any, Any, Any]:
    """Labels, probabilities and weights as float32 tensors (B,) of ones (B,) or (B, 1), weights also of `None` or a scalar.

    Other numbers of them are a `ValueError` in the name of `metric`, as far as shapes are known.
    """
    labels, probabilities = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
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


@keras.saving.register_keras_serializable(package="keras_dlrm")
class LogLoss(ClickMetric):
    """Mean negative log likelihood of the labels, in nats, with probabilities clipped as in `NormalizedEntropy` and `scores`.

    Keras's `BinaryCrossentropy` on TensorFlow finds the logits behind the probabilities and does not clip: rows that are certain
    and wrong then count more than in any other score. The metric sums in float32 pairs (`RunningSum`); without rows it is 0.

    Args:
        name: Name of the metric.

    Example:

    >>> metric = LogLoss()
    >>> metric.update_state(np.array([0, 1]), np.array([0.1, 0.6]))
    >>> round(float(metric.result()), 4)
    0.3081
    """

    def __init__(self, name: str = "log_loss") -> None:
        super().__init__(name)
        self._loss = RunningSum(self, "loss")
        self._rows = RunningSum(self, "rows")

    def add(self, labels: Any, probabilities: Any, weights: Any) -> None:
        self._loss.add(ops.sum(weights * _row_losses(labels, probabilities)))
        self._rows.add(ops.sum(weights))

    def result(self) -> Any:
        """The log loss of everything seen since the last reset, a float32 scalar tensor."""
        return ops.divide_no_nan(self._loss.value(), self._rows.value())


def _row_losses(labels: Any, probabilities: Any) -> Any:
    """Negative log likelihood of each row, float32 (B,), from probabilities clipped to [1e-7, 1 - 1e-7]."""
    clipped = ops.clip(probabilities, EPSILON, 1.0 - EPSILON)
    return -(labels * ops.log(clipped) + (1.0 - labels) * ops.log(1.0 - clipped))


@keras.saving.register_keras_serializable(package="keras_dlrm")
class NormalizedEntropy(ClickMetric):
    """Mean log loss divided by the entropy of the mean click rate; below 1 is better than the base rate.

    Log loss alone says little across data sets, since a rare label makes it small for any model.

    The metric sums in float32 pairs (`RunningSum`), whatever the dtype of `y_pred`, with probabilities clipped to
    [1e-7, 1 - 1e-7]. While there is no row yet, or only one class, the ratio is undefined and the result is 1, "no better
    than the base rate". A label or probability of NaN makes it NaN.

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
        self._loss.add(ops.sum(weights * _row_losses(labels, probabilities)))
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


_HALF = 2**16


class Count(keras.metrics.Metric):
    """Sum of integers, exact up to about 2⁴⁷; `keras.metrics.Sum` stops growing by ones at 2²⁴.

    In a compiled step on JAX, which has no float64, the result is rounded to float32, as progress bars show it; the logs
    of an epoch are exact.

    Example:

    >>> count = Count("seen")
    >>> for part in (2**24, 1, 2):
    ...     count.update_state(keras.ops.convert_to_tensor(part, "int32"))
    >>> int(count.result()) - 2**24
    3
    """

    def __init__(self, name: str = "count") -> None:
        super().__init__(name=name)
        self._sum = RunningSum(self, "count")

    def update_state(self, part: Any) -> None:
        """Add an int32 scalar >= 0."""
        # Each half of it is a float32.
        low = ops.mod(part, _HALF)
        self._sum.add(ops.cast(part - low, "float32"))
        self._sum.add(ops.cast(low, "float32"))

    def result(self) -> Any:
        return backend.precise_sum(self._sum.high.value, self._sum.low.value)
