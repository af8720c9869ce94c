"""Scores, figures and baselines of each of several labels, and their means."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from keras_dlrm.data.packed.one_label import LabelSplit
from keras_dlrm.metrics import scores

#: Names of the scores of a part.
SCORES = ("auc", "logloss", "ne", "calibration", "ece")


class OneLabel:
    """A model of several labels as one of a single label: its predictions, and nothing else.

    Args:
        model: The model.
        label: Name of one of its labels.
    """

    def __init__(self, model: Any, label: str) -> None:
        self._model, self._place = model, model.schema.labels.index(label)

    def predict_on_batch(self, batch: Any) -> np.ndarray:
        """p(label) of a packed batch, float32 (B, 1)."""
        return np.asarray(self._model.predict_on_batch(batch))[:, self._place : self._place + 1]


def logs_by_label(log: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """For each label of a log its name, empty where it is the only one, the log of it alone, and where its rows are in a part.

    Args:
        log: A `ClickLog`.
        name: The part.

    Returns:
        An iterator of `(label, log, rows)`: by `rows` predictions (N,) or (N, T) for the whole part become those of the label.
    """
    labels = log.schema.labels
    if len(labels) == 1:
        yield "", log, (slice(None),)
        return
    for i, label in enumerate(labels):
        own = log.of_label(label)
        yield label, own, (own.split(name).rows, i)


def part_scores(part: Any, probabilities: np.ndarray) -> dict[str, float]:
    """Scores of a part of a log, see `kd.metrics.scores`.

    Of several labels their means, and behind them those of each label, over the rows that have it, as `auc_click` and so on.

    Args:
        part: The `Split`.
        probabilities: Predictions for its rows in file order, (N,), or (N, T) of T labels.
    """
    labels = part.schema.labels
    if len(labels) == 1:
        return scores(part.labels, probabilities, part.sample_weights())
    each = {}
    for i, label in enumerate(labels):
        one = LabelSplit(part, label)
        each[label] = scores(one.labels, probabilities[one.rows, i], one.sample_weights())
    means = {name: float(np.mean([of[name] for of in each.values()])) for name in SCORES}
    return means | {f"{name}_{label}": of[name] for label, of in each.items() for name in SCORES}


def with_means(logs: Mapping[str, Any], labels: tuple[str, ...], prefix: str = "") -> dict[str, float]:
    """Means over labels of a metric's values in logs: `auc` of `auc_click` and `auc_like`; none where there is one label.

    Example:

    >>> with_means({"auc_click": 0.5, "auc_like": 1.0, "loss": 2.0}, ("click", "like"))
    {'auc': 0.75}
    """
    means = {}
    for name in ("auc", "logloss", "ne") if len(labels) > 1 else ():
        values = [logs[f"{prefix}{name}_{label}"] for label in labels if f"{prefix}{name}_{label}" in logs]
        if len(values) == len(labels):
            means[prefix + name] = float(np.mean([float(value) for value in values]))
    return means


def of_label(result: Mapping[str, Any], label: str) -> dict[str, Any]:
    """The result of a run as that of one of its labels: its scores, its history, its baselines."""
    own: dict[str, Any] = dict(result["labels"][label])
    for part in ("train", "valid", "test"):
        if part in result:
            own[part] = _ending(result[part], label)
    if "history" in result:
        own["history"] = _ending(result["history"], label)
    return own


def _ending(values: Mapping[str, Any], label: str) -> dict[str, Any]:
    names = (f"{prefix}{name}" for prefix in ("", "val_") for name in SCORES)
    return {name: values[f"{name}_{label}"] for name in names if f"{name}_{label}" in values}
