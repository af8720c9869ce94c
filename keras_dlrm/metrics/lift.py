"""Lift and gains: how many of the clicks the rows with the highest predictions have."""

from typing import Any, NamedTuple

import numpy as np

from keras_dlrm.metrics.reliability import reliability


class Lift(NamedTuple):
    """The points of a lift and of a gains chart, by descending prediction; k ≤ bins.

    Args:
        reached: float64 (k,), share of the rows in this bin and the bins before it; the last is 1.
        gain: float64 (k,), share of the clicks in them; the last is 1.
        lift: float64 (k,), click rate in each bin over that of all rows.
        predicted: float64 (k,), mean prediction in each bin.
        observed: float64 (k,), share of clicks in each bin.

    Example:

    >>> lift([0, 1], [0.2, 0.7], bins=2).gain.tolist()
    [1.0, 1.0]
    """

    reached: np.ndarray
    gain: np.ndarray
    lift: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray


def lift(labels: Any, probabilities: Any, bins: int = 10, weights: Any = None) -> Lift:
    """Click rate and share of the clicks by decile of the prediction, the highest decile first.

    The bins are those of `reliability`: of (nearly) equal numbers of rows, with equal predictions in one bin.

    Args:
        labels: 0 or 1, or numbers between, (n,) or (n, 1), at least one above 0.
        probabilities: In [0, 1], (n,) or (n, 1).
        bins: Most bins, at least 1; 10 for deciles.
        weights: What each row counts, finite and at least 0; 1 each by default.

    Returns:
        A `Lift` of arrays `reached`, `gain`, `lift`, `predicted`, `observed`.

    Raises:
        ValueError: bad shapes or values, no click, or `bins` below 1.

    Example:

    >>> found = lift([0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.8, 0.9], bins=3)
    >>> found.lift.tolist(), found.gain.round(2).tolist()
    ([2.0, 1.0, 0.0], [0.67, 1.0, 1.0])
    """
    points = reliability(labels, probabilities, bins, weights)
    predicted, observed, rows = (values[::-1] for values in points)
    clicks = observed * rows
    total = clicks.sum()
    if not total:
        raise ValueError("lift: no label is above 0; it is defined only where clicks occur.")
    gain, reached = np.cumsum(clicks) / total, np.cumsum(rows) / rows.sum()
    gain[-1] = reached[-1] = 1.0  # whatever rounding left
    return Lift(reached, gain, observed * rows.sum() / total, predicted, observed)
