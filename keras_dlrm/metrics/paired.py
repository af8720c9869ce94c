"""Paired difference of two models' scores with its interval, in one pass: for every run, where resampling would take long."""

from math import erfc, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from keras_dlrm.metrics.bootstrap import Difference
from keras_dlrm.metrics.scores import mass_losses
from keras_dlrm.metrics.validation import masses
from keras_dlrm.support.arguments import number
from keras_dlrm.support.auc import tie_starts


def paired_difference(
    labels: Any, probs_a: Any, probs_b: Any, weights: Any = None, confidence: float = 0.95
) -> dict[str, Difference]:
    """Differences a − b of AUC and of log loss, with normal intervals from what each row contributes to them.

    What `paired_bootstrap` finds by resampling, in O(n log n), and of weighted rows, too. The interval covers the choice of
    test rows, not of training seeds.

    Args:
        labels: 0 or 1, or numbers between, (n,) or (n, 1), both occurring.
        probs_a: Probabilities of model a, in [0, 1], (n,) or (n, 1).
        probs_b: Probabilities of model b, likewise.
        weights: What each row counts, finite and at least 0, (n,) or (n, 1); 1 each by default.
        confidence: How sure each interval is, in [0, 1). Who looks at both for any difference, and is to be wrong in at most 5% of
            all cases, takes 0.975 (Bonferroni).

    Returns:
        `{"auc": Difference, "logloss": Difference}`. Better is above zero for AUC and below zero for log loss.

    Raises:
        ValueError: bad shapes or values, labels all equal, or `confidence` outside [0, 1).

    Example:

    >>> labels = np.arange(200) % 2
    >>> noise = np.random.default_rng(0).uniform(0, 1, 200)
    >>> result = paired_difference(labels, 0.3 + 0.4 * labels, noise)
    >>> result["auc"].low > 0, result["logloss"].high < 0, result["auc"].p_value < 0.05
    (True, True, True)

    Source: DeLong et al. 1988, "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves".
    """
    confidence = number("paired_difference", "confidence", confidence, 0.0, 1.0)
    clicks, others, a = masses("paired_difference", labels, probs_a, weights)
    _, _, b = masses("paired_difference", labels, probs_b, weights)
    if not clicks.any() or not others.any():
        raise ValueError(f"paired_difference: all labels are {int(clicks.any())}; it is defined only where both 0 and 1 occur.")
    freedom = min(_effective(clicks), _effective(others)) - 1
    return {
        "auc": _difference(_auc(clicks, others, a), _auc(clicks, others, b), freedom, confidence),
        "logloss": _difference(_log_loss(clicks, others, a), _log_loss(clicks, others, b), freedom, confidence),
    }


def _auc(clicks: np.ndarray, others: np.ndarray, values: np.ndarray) -> tuple[float, np.ndarray]:
    """AUC, and how much each row moves it: whether it stands on the right side of the others more often than the mean."""
    order = np.argsort(values)
    starts = tie_starts(values[order])
    tied_clicks, tied_others = (np.add.reduceat(mass[order], starts) for mass in (clicks, others))
    sizes = np.diff(np.append(starts, len(values)))
    # Shares of the non-clicks below and of the clicks above a score, those of the same score by half.
    below, above = np.empty_like(values), np.empty_like(values)
    below[order] = np.repeat((np.cumsum(tied_others) - tied_others / 2) / others.sum(), sizes)
    above[order] = np.repeat(1 - (np.cumsum(tied_clicks) - tied_clicks / 2) / clicks.sum(), sizes)
    area = float(clicks @ below / clicks.sum())
    moved = (_unbiased(mass) * mass * (side - area) / mass.sum() for mass, side in ((clicks, below), (others, above)))
    return area, sum(moved)


def _log_loss(clicks: np.ndarray, others: np.ndarray, values: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean log loss, and how much each row moves it."""
    rows, losses = clicks + others, mass_losses(clicks, others, values)
    mean = float(losses.sum() / rows.sum())
    return mean, _unbiased(rows) * (losses - mean * rows) / rows.sum()


def _effective(mass: np.ndarray) -> float:
    """Number of rows of equal weight that would tell as much."""
    return float(mass.sum() ** 2 / (mass @ mass))


def _unbiased(mass: np.ndarray) -> float:
    """n/(n - 1) under the root: deviations from a mean of few rows are too small."""
    return sqrt(1 + 1 / max(_effective(mass) - 1, 1e-9))


def _difference(
    a: tuple[float, np.ndarray], b: tuple[float, np.ndarray], freedom: float, confidence: float
) -> Difference:
    """The difference and its interval by Student's distribution: a few clicks tell little, one tells nothing."""
    mean = a[0] - b[0]
    moved = a[1] - b[1]
    if freedom < 0.5:
        return Difference(mean, -1.0 - abs(mean), 1.0 + abs(mean), 1.0)
    error = sqrt(float(moved @ moved))
    half = error * _student(confidence, freedom)
    wide = error * _student(0.95, freedom) / _normal(0.95)  # of the normal distribution that holds 95% in the same place
    p_value = erfc(abs(mean) / wide / sqrt(2)) if wide > 0 else float(mean == 0)
    return Difference(mean, mean - half, mean + half, p_value)


def _normal(confidence: float) -> float:
    """Standard deviations on either side of the mean that hold a share of the normal distribution."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _student(confidence: float, n: float) -> float:
    """The same of Student's distribution of n degrees of freedom, to 2% from 2 on (Abramowitz and Stegun 26.7.5)."""
    z = _normal(confidence)
    terms = (
        (z**3 + z) / 4 / n, (5 * z**5 + 16 * z**3 + 3 * z) / 96 / n**2, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / n**3,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160 / n**4,
    )  # fmt: skip
    return z + sum(terms)
