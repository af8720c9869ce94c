"""Scores with row weights and soft labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_dlrm.metrics.validation import checked, flat
from keras_dlrm.support.auc import tie_starts, weighted_auc


def masses(function: str, labels: Any, probabilities: Any, weights: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight of each row as a click and as a non-click, and its prediction; rows of weight 0 are left out.

    A label y of a row of weight w is y · w clicks and (1 - y) · w non-clicks. The three arrays are float64 (k,). Bad shapes or
    values, or no row that counts, are a `ValueError` in the name of `function`.
    """
    truth, values = checked(function, labels, probabilities, both_classes=False, soft=True)
    rows = np.ones(len(truth)) if weights is None else flat(function, "weights", weights).astype(np.float64)
    if len(rows) != len(truth):
        raise ValueError(f"{function}: {len(truth)} labels but {len(rows)} weights; give one of each per example.")
    wrong = ~(np.isfinite(rows) & (rows >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{function}: weights[{row}] is {rows[row]}; it must be a finite number of at least 0.")
    counts = rows > 0
    if not counts.any():
        raise ValueError(f"{function}: all {len(rows)} weights are 0; at least one row must count.")
    truth, values, rows = truth[counts].astype(np.float64), values[counts], rows[counts]
    return truth * rows, (1 - truth) * rows, values


def weighted_points(
    clicks: np.ndarray, others: np.ndarray, probabilities: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean prediction, share of clicks and weight in bins of (nearly) equal weight; rows as `masses` gives them."""
    order = np.argsort(probabilities, kind="stable")
    values, clicks, rows = probabilities[order], clicks[order], (clicks + others)[order]
    starts = tie_starts(values)
    mass = np.add.reduceat(rows, starts)
    ends = np.cumsum(mass)
    # The bin of a tie is that of its middle.
    bin_of_tie = np.minimum((ends - mass / 2) * bins // ends[-1], bins - 1)
    first = starts[tie_starts(bin_of_tie)]
    count = np.add.reduceat(rows, first)
    return np.add.reduceat(values * rows, first) / count, np.add.reduceat(clicks, first) / count, count


def weighted_scores(labels: Any, probabilities: Any, weights: Any, epsilon: float, bins: int = 10) -> dict[str, float]:
    """The scores of `scores`, for weights; arguments as of `masses`, `log_loss` and `reliability`.

    Example:

    >>> twice = weighted_scores([0, 1, 0.5], [0.2, 0.7, 0.4], [1, 2, 1], 1e-7)
    >>> {name: round(value, 3) for name, value in twice.items()}
    {'auc': 0.967, 'logloss': 0.413, 'ne': 0.624, 'calibration': 0.8, 'ece': 0.225}
    """
    clicks, others, values = masses("scores", labels, probabilities, weights)
    total = clicks.sum() + others.sum()
    rate = clicks.sum() / total
    if not 0 < rate < 1:
        raise ValueError(f"scores: all labels are {int(rate)}; it is defined only where both 0 and 1 occur.")
    clipped = np.clip(values, epsilon, 1 - epsilon)
    loss = -(clicks * np.log(clipped) + others * np.log1p(-clipped)).sum() / total
    predicted, observed, count = weighted_points(clicks, others, values, bins)
    return {
        "auc": weighted_auc(values, clicks, others),
        "logloss": float(loss),
        "ne": float(loss / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))),
        "calibration": float((values * (clicks + others)).sum() / clicks.sum()),
        "ece": float(np.average(np.abs(predicted - observed), weights=count)),
    }
