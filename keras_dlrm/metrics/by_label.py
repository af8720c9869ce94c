"""Metrics of one of several labels, over the rows that have it."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

# What Keras makes of these names by the shape of labels, which have one column here.
_BINARY = {
    "accuracy": keras.metrics.BinaryAccuracy, "acc": keras.metrics.BinaryAccuracy,
    "crossentropy": keras.metrics.BinaryCrossentropy, "ce": keras.metrics.BinaryCrossentropy,
}  # fmt: skip


@keras.saving.register_keras_serializable("keras_dlrm")
class LabelMetric(keras.metrics.Metric):
    """A metric of one column of labels and predictions; rows whose label is missing have no weight.

    Args:
        metric: The metric.
        place: Number of the column.
        name: Name, such as `auc_like`.

    Example:

    >>> metric = LabelMetric(keras.metrics.BinaryAccuracy(), 1, "accuracy_like")
    >>> metric.update_state(np.array([[1, 0], [0, np.nan], [0, 1]]), np.array([[0.2, 0.3], [0.1, 0.9], [0.5, 0.1]]))
    >>> float(metric.result())
    0.5
    """

    def __init__(self, metric: keras.metrics.Metric, place: int, name: str, dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.metric, self.place = metric, place

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add labels and predictions of a batch, (B, T) each, and weights of rows (B,), or `None`."""
        columns = slice(self.place, self.place + 1)
        labels, values = ops.cast(y_true, "float32")[:, columns], ops.convert_to_tensor(y_pred)[:, columns]
        known = ops.logical_not(ops.isnan(labels))
        weights = ops.cast(known[:, 0], "float32")
        if sample_weight is not None:
            weights = weights * ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
        return self.metric.update_state(ops.where(known, labels, 0.0), ops.where(known, values, 0.5), weights)

    def result(self) -> Any:
        """The metric's value since the last reset."""
        return self.metric.result()

    def reset_state(self) -> None:
        """Begin again."""
        self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the metric again."""
        return {"metric": keras.saving.serialize_keras_object(self.metric), "place": self.place, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LabelMetric":
        return cls(**{**config, "metric": keras.saving.deserialize_keras_object(config["metric"])})


def by_label(metrics: Any, labels: Sequence[str]) -> list[LabelMetric]:
    """Metrics as `compile` takes them, or a mapping of these by label, as one of each label: `auc` becomes `auc_click`, `auc_like`.

    Raises:
        ValueError: a mapping has what is no label.
    """
    if isinstance(metrics, Mapping):
        for name in metrics:
            if name not in labels:
                raise ValueError(f"compile: metrics has {name!r}, which is not a label; known are {list(labels)}.")
        return [each for name in labels for each in _of(metrics.get(name), list(labels), [name])]
    return _of(metrics, list(labels), labels)


def _of(metrics: Any, labels: list[str], names: Sequence[str]) -> list[LabelMetric]:
    every: list[LabelMetric] = []
    for one in keras.tree.flatten([] if metrics is None else metrics):
        if isinstance(one, LabelMetric):  # of a model that was saved
            every.append(one)
            continue
        metric: Any = _BINARY[one]() if isinstance(one, str) and one in _BINARY else keras.metrics.get(one)
        for name in names:
            if isinstance(metric, keras.metrics.Metric):
                own = type(metric).from_config(metric.get_config())
            else:  # a function, which may be none that a configuration can hold
                own = keras.metrics.MeanMetricWrapper(metric, metric.__name__)
            # Keras numbers metrics that have the name of their class.
            called = one if isinstance(one, str) else getattr(metric, "name", own.name)
            every.append(LabelMetric(own, labels.index(name), f"{called}_{name}"))
    return every
