"""Paired bootstrap: whether one model is better than another by more than noise."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_dlrm.metrics.scores import mass_losses
from keras_dlrm.metrics.validation import checked, row_weights
from keras_dlrm.support.arguments import integer
from keras_dlrm.support.auc import auc_of_counts, tie_starts


class Difference(NamedTuple):
    """A score of model a minus that of model b, and how sure it is.

    Args:
        difference: On the rows as they are.
        low: Lower end of its interval, of 95% unless another confidence was asked for.
        high: Upper end of it.
        p_value: Two-sided, for the hypothesis that there is no difference.

    Example:

    >>> Difference(0.01, 0.004, 0.016, 0.002).low
    0.004
    """

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    labels: Any, probs_a: Any, probs_b: Any, samples: int = 1000, seed: int = 0, weights: Any = None
) -> dict[str, Difference]:
    """Differences a − b of AUC and of log loss, with percentile intervals from resampling rows.

    Both models are scored on the same resampled rows, which removes the luck that they share. The interval covers the
    choice of test rows, not of training seeds: compare means over seeds for that. A resample without both classes is
    drawn again. The p-value is twice the smaller share of resampled differences on either side of zero, with one added
    to numerator and denominator, so it is never below 2 / (samples + 1).

    Args:
        labels: 0 or 1, or numbers between, (n,) or (n, 1), both occurring.
        probs_a: Probabilities of model a, in [0, 1], (n,) or (n, 1).
        probs_b: Probabilities of model b, likewise.
        samples: Number of resamples, at least 1. Each costs O(n): two presorted passes.
        seed: Seed of the resampling.
        weights: What each row counts, finite and at least 0, (n,) or (n, 1); 1 each by default.

    Returns:
        `{"auc": Difference, "logloss": Difference}`. Better is above zero for AUC and below zero for log loss.

    Raises:
        ValueError: bad shapes or values, or `samples` below 1.

    Example:

    >>> labels = np.arange(200) % 2
    >>> noise = np.random.default_rng(0).uniform(0, 1, 200)
    >>> result = paired_bootstrap(labels, 0.3 + 0.4 * labels, noise, samples=100)
    >>> result["auc"].low > 0, result["logloss"].high < 0, result["auc"].p_value < 0.05
    (True, True, True)

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 15.
    """
    return paired_bootstrap_runs(labels, [probs_a], [probs_b], samples, seed, weights)


def paired_bootstrap_runs(
    labels: Any, runs_a: Sequence[Any], runs_b: Sequence[Any], samples: int = 1000, seed: int = 0, weights: Any = None
) -> dict[str, Difference]:
    """Differences as of `paired_bootstrap`, for the mean scores of several training runs (seeds) of each model.

    Each resample draws rows and, where a model has more than one run, runs as well: the interval covers the luck of the
    test rows and that of the seeds.

    Args:
        labels: 0 or 1, or numbers between, (n,) or (n, 1), both occurring.
        runs_a: Probabilities of model a, one array per run, each as for `paired_bootstrap`.
        runs_b: Probabilities of model b; as many runs or another number.
        samples: Number of resamples, at least 1. Each costs O(n) per run.
        seed: Seed of the resampling.
        weights: What each row counts, finite and at least 0, (n,) or (n, 1); 1 each by default.

    Returns:
        `{"auc": Difference, "logloss": Difference}` of the means over runs.

    Raises:
        ValueError: no run, bad shapes or values, or `samples` below 1.

    Example:

    >>> labels = np.arange(200) % 2
    >>> runs = [np.random.default_rng(i).uniform(0, 1, 200) for i in range(4)]
    >>> paired_bootstrap_runs(labels, runs[:2], runs[2:], samples=100)["auc"].p_value > 0.05
    True
    """
    samples = integer("paired_bootstrap", "samples", samples)
    if not len(runs_a) or not len(runs_b):
        raise ValueError("paired_bootstrap: a model has no run; give at least one array of probabilities for each.")
    models, losses = [], []
    for name, runs in (("probs_a", runs_a), ("probs_b", runs_b)):
        named = f"probabilities ({name})"
        pairs = [checked("paired_bootstrap", labels, run, name=named, soft=True) for run in runs]
        truth, rows = pairs[0][0].astype(np.float64), row_weights("paired_bootstrap", weights, len(pairs[0][0]))
        clicks, others = truth * rows, (1 - truth) * rows
        models.append([_Sorted(clicks, others, values) for _, values in pairs])
        losses.append(np.stack([mass_losses(clicks, others, values) for _, values in pairs]))
    n = len(clicks)
    if not clicks.any() or not others.any():
        raise ValueError("paired_bootstrap: all rows that count have one label; it is defined only where both 0 and 1 occur.")
    rng = np.random.default_rng(seed)

    def difference(times: np.ndarray, drawn: list[np.ndarray]) -> tuple[float, float]:
        aucs = [np.mean([models[m][run].auc(times) for run in drawn[m]]) for m in (0, 1)]
        means = [losses[m][drawn[m]].mean(axis=0) @ times / (rows @ times) for m in (0, 1)]
        return float(aucs[0] - aucs[1]), float(means[0] - means[1])

    observed = difference(np.ones(n, dtype=np.int64), [np.arange(len(runs)) for runs in models])
    resampled = np.empty((samples, 2))
    for i in range(samples):
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        while not clicks @ times or not others @ times:
            times = np.bincount(rng.integers(0, n, n), minlength=n)
        drawn = [rng.integers(0, len(runs), len(runs)) if len(runs) > 1 else np.zeros(1, int) for runs in models]
        resampled[i] = difference(times, drawn)
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    smaller = np.minimum((resampled <= 0).sum(axis=0), (resampled >= 0).sum(axis=0))
    p_values = np.minimum(1.0, 2 * (smaller + 1) / (samples + 1))
    each = zip(observed, low, high, p_values, strict=True)
    return {name: Difference(*map(float, values)) for name, values in zip(("auc", "logloss"), each, strict=True)}


class _Sorted:
    """One model's rows in ascending order of score, for AUCs under many row counts."""

    def __init__(self, clicks: np.ndarray, others: np.ndarray, values: np.ndarray) -> None:
        self.order = np.argsort(values)
        self.clicks, self.others = clicks[self.order], others[self.order]
        self.starts = tie_starts(values[self.order])

    def auc(self, times: np.ndarray) -> float:
        counted = times[self.order]
        positive, negative = counted * self.clicks, counted * self.others
        if len(self.starts) < len(counted):
            positive, negative = np.add.reduceat(positive, self.starts), np.add.reduceat(negative, self.starts)
        return auc_of_counts(positive, negative)
