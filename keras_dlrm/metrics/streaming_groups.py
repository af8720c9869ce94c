"""Streaming metrics that are told the group of each row: grouped AUC, and any metric by slice."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.metrics.streaming import flat_inputs
from keras_dlrm.support.arguments import integer, shown

_FARTHEST = 13.8  # log-odds of 1 - 1e-6, beyond which predictions share the outer bins


@keras.saving.register_keras_serializable(package="keras_dlrm")
class GroupedAUC(keras.metrics.Metric):
    """AUC within each group (user, session), averaged with the groups' row weights, while rows stream by.

    `update_state` needs the group of each row, which `fit` and `evaluate` do not give a metric: it is for loops of your own. Of
    predictions that are there as a whole, `grouped_auc` is exact, as `keras-dlrm evaluate --group-by` prints it.

    Groups may come in any order and in any batch. The metric keeps a histogram of the predictions of each group, in bins of equal
    width in log-odds; rows of one bin count as ties. Groups of only one class are left out; while there is no other the result is
    0.5. A prediction of NaN makes it NaN.

    Args:
        groups: Number of groups, at least 1. Rows whose group is outside [0, groups) are left out, so that of a million users
            the first thousand can stand for all.
        bins: Bins of a histogram, at least 2. The metric has 8 · groups · bins bytes, and reads them all in each batch.
        name: Name of the metric.

    Example:

    >>> metric = GroupedAUC(groups=2)
    >>> metric.update_state(np.array([0, 1, 0, 1]), np.array([0.2, 0.3, 0.9, 0.8]), groups=np.array([0, 0, 1, 1]))
    >>> float(metric.result())
    0.5

    Source: Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018, section 6.3.
    """

    def __init__(self, groups: int, bins: int = 200, name: str = "grouped_auc") -> None:
        super().__init__(name=name, dtype="float32")
        self.bins = integer("GroupedAUC", "bins", bins, 2)
        self.groups = integer("GroupedAUC", "groups", groups, high=(2**31 - 1) // self.bins)
        shape = (self.groups, self.bins)
        self._clicks = self.add_variable(shape=shape, initializer="zeros", dtype="float32", name="clicks")
        self._others = self.add_variable(shape=shape, initializer="zeros", dtype="float32", name="others")

    def update_state(self, y_true: Any, y_pred: Any, groups: Any = None, sample_weight: Any = None) -> None:
        """Add labels, probabilities, groups (int32) and weights, or `None`, of a batch: (B,) or (B, 1) each."""
        labels, values, weights = flat_inputs(self.name, y_true, y_pred, sample_weight)
        group = flat_groups(self.name, groups, values, "kd.metrics.grouped_auc")
        inside = ops.logical_and(group >= 0, group < self.groups)
        unknown = ops.isnan(values)
        values = ops.clip(ops.where(unknown, 0.5, values), 1e-6, 1.0 - 1e-6)
        odds = ops.log(values) - ops.log(1.0 - values)
        place = ops.cast(ops.floor((odds + _FARTHEST) * (self.bins / (2 * _FARTHEST))), "int32")
        cell = ops.where(inside, group, 0) * self.bins + ops.clip(place, 0, self.bins - 1)
        weights = ops.where(inside, ops.where(unknown, float("nan"), weights), 0.0)
        for counts, mass in ((self._clicks, weights * labels), (self._others, weights * (1.0 - labels))):
            counts.assign_add(ops.reshape(ops.segment_sum(mass, cell, self.groups * self.bins), counts.shape))

    def result(self) -> Any:
        """The grouped AUC since the last reset, a float32 scalar tensor."""
        clicks, others = ops.convert_to_tensor(self._clicks), ops.convert_to_tensor(self._others)
        below = ops.cumsum(others, axis=1) - others
        won = ops.sum(clicks * (below + 0.5 * others), axis=1)
        n_clicks, n_others = ops.sum(clicks, axis=1), ops.sum(others, axis=1)
        # No comparison holds for NaN, which is to stay one.
        alike = ops.logical_or(n_clicks <= 0.0, n_others <= 0.0)
        rows = ops.where(alike, 0.0, n_clicks + n_others)
        areas = won / ops.where(alike, 1.0, n_clicks * n_others)
        total = ops.sum(rows)
        return ops.where(total <= 0.0, 0.5, ops.sum(rows * areas) / ops.where(total <= 0.0, 1.0, total))

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the metric again."""
        return {"groups": self.groups, "bins": self.bins, "name": self.name}


@keras.saving.register_keras_serializable(package="keras_dlrm")
class Sliced(keras.metrics.Metric):
    """A metric of each of a few slices of the rows: countries, devices, head and tail.

    `update_state` needs the slice of each row, which `fit` and `evaluate` do not give a metric: it is for loops of your own. Of
    predictions that are there as a whole, `scores_by_slice` has all scores.

    Args:
        metric: A metric of labels and predictions with weights, such as `keras.metrics.AUC()` or `NormalizedEntropy()`. It is
            copied once for each slice, and each copy reads each batch.
        slices: Names of the slices, in the order of their numbers, at least one.
        name: Name of the metric; that of `metric` and `_sliced` by default.

    Raises:
        TypeError: `metric` is no Keras metric.
        ValueError: no name, or one that comes twice.

    Example:

    >>> metric = Sliced(kd.metrics.Calibration(), ["phone", "desktop"])
    >>> metric.update_state(np.array([1, 1, 0]), np.array([0.5, 0.9, 0.3]), slices=np.array([0, 1, 1]))
    >>> {name: round(float(value), 2) for name, value in metric.result().items()}
    {'phone': 0.5, 'desktop': 1.2}
    """

    def __init__(self, metric: keras.metrics.Metric, slices: Sequence[str], name: str | None = None) -> None:
        if not isinstance(metric, keras.metrics.Metric):
            raise TypeError(f"Sliced: metric={shown(metric)} must be a Keras metric, such as keras.metrics.AUC().")
        if isinstance(slices, str) or not len(slices) or len(set(slices)) < len(slices):
            raise ValueError(f"Sliced: slices={shown(slices)} must be a list of one or more different names.")
        super().__init__(name=name or f"{metric.name}_sliced", dtype="float32")
        self.slices = list(slices)
        self._copies = [type(metric).from_config(metric.get_config()) for _ in slices]

    def update_state(self, y_true: Any, y_pred: Any, slices: Any = None, sample_weight: Any = None) -> None:
        """Add labels, probabilities, numbers of slices (int32) and weights, or `None`, of a batch: (B,) or (B, 1) each.

        Rows of other numbers are in no slice.
        """
        labels, values, weights = flat_inputs(self.name, y_true, y_pred, sample_weight)
        member = flat_groups(self.name, slices, values, "kd.metrics.scores_by_slice", "slices")
        for number, copy in enumerate(self._copies):
            copy.update_state(labels, values, sample_weight=ops.where(member == number, weights, 0.0))

    def result(self) -> dict[str, Any]:
        """Result of the metric by name of the slice."""
        return {name: copy.result() for name, copy in zip(self.slices, self._copies, strict=True)}

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the metric again."""
        return {"metric": keras.saving.serialize_keras_object(self._copies[0]), "slices": self.slices, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Sliced":
        """The metric of `get_config`'s arguments."""
        return cls(**{**config, "metric": keras.saving.deserialize_keras_object(config["metric"])})


def flat_groups(metric: str, groups: Any, values: Any, exact: str, argument: str = "groups") -> Any:
    """The group of each of the predictions `values` (B,), int32 (B,).

    Those beyond int32 become -1. Without them, of another number or no integers, a `ValueError` in the name of `metric`, with
    `exact` as the function to use instead.
    """
    if groups is None:
        raise ValueError(
            f"{metric}: update_state needs {argument}=…, one integer a row, which fit and evaluate do not give; call it in a loop "
            f"of your own, or use {exact} on all predictions."
        )
    group = groups if ops.is_tensor(groups) else np.asarray(groups)
    kind = keras.backend.standardize_dtype(group.dtype)
    if "int" not in kind:
        raise ValueError(f"{metric}: {argument} has dtype {kind}; give one integer a row.")
    if "64" in kind:  # such as hashes of ids, of which int32 would make others
        group = ops.cast(group, "int64") if ops.is_tensor(group) else group.astype(np.int64)
        where = ops.where if ops.is_tensor(group) else np.where
        group = where(group > 2**31 - 1, -1, where(group < 0, -1, group))
    group = ops.cast(group, "int32")
    if None not in group.shape and None not in values.shape and group.shape not in (values.shape, (*values.shape, 1)):
        raise ValueError(f"{metric}: {argument} has shape {tuple(group.shape)}; give one integer a row, {tuple(values.shape)}.")
    return ops.reshape(group, (-1,))
