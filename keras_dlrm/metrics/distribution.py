"""Distribution of the predictions for clicks and for non-clicks."""

from typing import Any, NamedTuple

import numpy as np

from keras_dlrm.metrics.validation import masses
from keras_dlrm.support.arguments import integer

# Predictions closer to 0 or 1 than this share the outer bins.
_EDGE = 1e-6


class ScoreDistribution(NamedTuple):
    """A histogram of predictions.

    Args:
        edges: float64 (bins + 1,), probabilities at equal distances in log-odds.
        clicks: float64 (bins,), share of the clicks in each bin; zeros where there are none.
        others: float64 (bins,), share of the non-clicks in each bin.

    Example:

    >>> score_distribution([0, 1, 1], [0.2, 0.8, 0.4], bins=2).clicks.tolist()
    [0.5, 0.5]
    """

    edges: np.ndarray
    clicks: np.ndarray
    others: np.ndarray


def score_distribution(labels: Any, probabilities: Any, bins: int = 40, weights: Any = None) -> ScoreDistribution:
    """Histograms of the predictions for clicks and for non-clicks, in bins of equal width in log-odds.

    Click probabilities crowd near zero; log-odds, log(p / (1 - p)), spread them out. The farther apart the two histograms
    are, the higher is the AUC.

    Args:
        labels: 0 or 1, or numbers between, (n,) or (n, 1): y counts as y clicks and 1 - y non-clicks.
        probabilities: In [0, 1], (n,) or (n, 1).
        bins: Number of bins, at least 1.
        weights: What each row counts, finite and at least 0; 1 each by default.

    Returns:
        A `ScoreDistribution` of arrays `edges`, `clicks`, `others`.

    Raises:
        ValueError: bad shapes or values, or `bins` below 1.

    Example:

    >>> found = score_distribution([0, 0, 1], [0.01, 0.1, 0.9], bins=2)
    >>> found.edges.round(2).tolist(), found.others.tolist()
    ([0.01, 0.23, 0.9], [1.0, 0.0])
    """
    bins = integer("score_distribution", "bins", bins)
    clicks, others, values = masses("score_distribution", labels, probabilities, weights)
    values = np.clip(values, _EDGE, 1 - _EDGE)
    odds = np.log(values) - np.log1p(-values)
    low, high = odds.min(), odds.max()
    if high - low < 1e-3:  # all alike: one bar in the middle
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    counted = (np.histogram(odds, edges, weights=mass)[0] / max(mass.sum(), _EDGE) for mass in (clicks, others))
    return ScoreDistribution(1 / (1 + np.exp(-edges)), *counted)
