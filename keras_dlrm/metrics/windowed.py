"""Score of the last window of a stream, from any metric."""

from typing import Any

import keras
from keras import ops

from keras_dlrm.support.arguments import integer, shown


@keras.saving.register_keras_serializable(package="keras_dlrm")
class Windowed(keras.metrics.Metric):
    """A metric of the last complete window of a stream, as a metric over everything takes ever longer to show a change.

    Put the metric itself beside it for the score since the start. A window is complete at the end of the batch that fills it, and
    the next one begins there. Until the first one is complete, its rows so far are scored. Rows of weight 0 fill no window. In a
    strategy with replicas each of them counts its own rows.

    Args:
        metric: A metric of labels and predictions whose variables are 0 after a reset, as are those of AUC and of this package.
            It is copied, not used.
        rows: Rows of a window, at least 1.
        name: Name of the metric; that of `metric` and `_window` by default.

    Raises:
        TypeError: `metric` is no Keras metric.

    Example:

    >>> metric = Windowed(kd.metrics.Calibration(), rows=2)
    >>> for probability in (0.5, 1.0, 0.25):  # two windows, and half of one
    ...     metric.update_state(np.array([0, 1]), np.array([probability, probability]))
    >>> metric.update_state(np.array([1]), np.array([0.9]))
    >>> float(metric.result())
    0.5
    """

    def __init__(self, metric: keras.metrics.Metric, rows: int, name: str | None = None) -> None:
        if not isinstance(metric, keras.metrics.Metric):
            raise TypeError(f"Windowed: metric={shown(metric)} must be a Keras metric, such as keras.metrics.AUC().")
        super().__init__(name=name or f"{metric.name}_window", dtype="float32")
        self.rows = integer("Windowed", "rows", rows, high=2**30)
        self._current, self._last = (type(metric).from_config(metric.get_config()) for _ in range(2))
        self._filled = self.add_variable(shape=(), initializer="zeros", dtype="int32", name="filled")
        self._complete = self.add_variable(shape=(), initializer="zeros", dtype="int32", name="complete")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch: labels, predictions and weights, as the metric takes them."""
        self._current.update_state(y_true, y_pred, sample_weight=sample_weight)
        rows = ops.shape(y_pred)[0]
        weights = None if sample_weight is None else ops.convert_to_tensor(sample_weight)
        if weights is not None and len(weights.shape):
            rows = ops.sum(ops.cast(weights > 0, "int32"))
        filled = ops.convert_to_tensor(self._filled) + ops.cast(rows, "int32")
        full = filled >= self.rows
        # Not a branch: a compiled step has one way through.
        for current, last in zip(self._current.variables, self._last.variables, strict=True):
            value = ops.convert_to_tensor(current)
            last.assign(ops.where(full, value, ops.convert_to_tensor(last)))
            current.assign(ops.where(full, ops.zeros_like(value), value))
        self._filled.assign(ops.where(full, 0, filled))
        self._complete.assign(ops.where(full, 1, ops.convert_to_tensor(self._complete)))

    def result(self) -> Any:
        """The score of the last complete window since the last reset."""
        return ops.where(ops.convert_to_tensor(self._complete) > 0, self._last.result(), self._current.result())

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the metric again."""
        metric = keras.saving.serialize_keras_object(self._current)
        return {"metric": metric, "rows": self.rows, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Windowed":
        """The metric of `get_config`'s arguments."""
        return cls(**{**config, "metric": keras.saving.deserialize_keras_object(config["metric"])})
