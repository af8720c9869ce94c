"""Reliability: how often a click follows a prediction of a given size."""

from typing import Any, NamedTuple

import numpy as np

from keras_dlrm.metrics.validation import checked, masses
from keras_dlrm.support.arguments import integer
from keras_dlrm.support.auc import tie_starts


class Reliability(NamedTuple):
    """The points of a reliability diagram, by ascending prediction; k ≤ bins.

    Args:
        predicted: float64 (k,), mean prediction in each bin.
        observed: float64 (k,), share of clicks in each bin.
        rows: int64 (k,), number of rows in each bin.

    Example:

    >>> reliability([0, 1], [0.2, 0.7], bins=2).predicted.tolist()
    [0.2, 0.7]
    """

    predicted: np.ndarray
    observed: np.ndarray
    rows: np.ndarray


def reliability(labels: Any, probabilities: Any, bins: int = 10, weights: Any = None) -> Reliability:
    """Mean prediction and share of clicks in bins of (nearly) equal numbers of rows.

    Click probabilities crowd near zero, where bins of equal width would put nearly all rows into one. Rows with equal
    predictions always share a bin, so the result does not depend on the order of the rows; heavily tied predictions
    therefore give fewer than `bins` bins.

    Args:
        labels: 0 or 1, or numbers between, (n,) or (n, 1).
        probabilities: In [0, 1], (n,) or (n, 1).
        bins: Most bins, at least 1.
        weights: What each row counts, finite and at least 0; bins are then of equal weight, and `rows` is their weight.

    Returns:
        A `Reliability` of arrays `predicted`, `observed`, `rows`.

    Raises:
        ValueError: bad shapes or values, or `bins` below 1.

    Example:

    >>> points = reliability([0, 0, 1, 1], [0.1, 0.3, 0.3, 0.9], bins=4)
    >>> points.observed.tolist(), points.rows.tolist()
    ([0.0, 0.5, 1.0], [1, 2, 1])
    """
    bins = integer("reliability", "bins", bins)
    clicks, values = checked("reliability", labels, probabilities, both_classes=False, soft=True)
    if weights is not None or clicks.dtype != bool:
        return Reliability(*weighted_points(*masses("reliability", clicks, values, weights), bins))
    order = np.argsort(values)
    values, clicks = values[order], clicks[order]
    starts = tie_starts(values)
    sizes = np.diff(np.append(starts, len(values)))
    # The bin of a tie is that of its middle row.
    bin_of_tie = ((2 * starts + sizes - 1) * bins) // (2 * len(values))
    first = starts[tie_starts(bin_of_tie)]
    count = np.diff(np.append(first, len(values)))
    # Sums run over the sorted rows and clicks are whole numbers, so that the order of the input does not matter.
    observed = np.add.reduceat(clicks.astype(np.int64), first) / count
    return Reliability(np.add.reduceat(values, first) / count, observed, count)


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


def expected_calibration_error(labels: Any, probabilities: Any, bins: int = 10) -> float:
    """Mean distance between prediction and share of clicks, over bins of equal numbers of rows.

    Args:
        labels: 0 or 1, (n,) or (n, 1).
        probabilities: In [0, 1], (n,) or (n, 1).
        bins: Most bins, at least 1; see `reliability`.

    Returns:
        A number in [0, 1]; 0 is perfectly calibrated.

    Raises:
        ValueError: bad shapes or values, or `bins` below 1.

    Example:

    >>> round(expected_calibration_error([0, 1, 1, 1], [0.5, 0.5, 0.75, 0.75], bins=2), 4)
    0.125

    Source: Nixon et al., Measuring Calibration in Deep Learning, CVPR workshops 2019 (adaptive binning).
    """
    points = reliability(labels, probabilities, bins)
    return float(np.average(np.abs(points.predicted - points.observed), weights=points.rows))
