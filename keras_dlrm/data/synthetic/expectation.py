"""Expected scores of known click probabilities, in closed form."""

from __future__ import annotations

import numpy as np

from keras_dlrm.support.auc import weighted_auc


def expected_auc(probabilities: np.ndarray) -> float:
    """AUC of true click probabilities against the clicks that they draw, in expectation.

    The expected number of pairs (clicked, not clicked) in the right order, over the expected number of pairs:
    `Σ_{i≠j} p_i (1 − p_j) ([p_i > p_j] + ½ [p_i = p_j]) / Σ_{i≠j} p_i (1 − p_j)`.

    Args:
        probabilities: (N,), true probabilities.

    Example:

    >>> expected_auc(np.array([0.0, 1.0])), expected_auc(np.array([0.5, 0.5]))
    (1.0, 0.5)
    """
    p = np.sort(np.asarray(probabilities, np.float64))
    below = np.concatenate([[0.0], np.cumsum(1.0 - p)])  # Σ (1 − p) over all that sort before
    low, high = np.searchsorted(p, p, "left"), np.searchsorted(p, p, "right")
    ties = below[high] - below[low] - (1.0 - p)
    pairs = p.sum() * (1.0 - p).sum() - (p * (1.0 - p)).sum()
    if pairs <= 0.0:
        return float("nan")
    return float((p * (below[low] + 0.5 * ties)).sum() / pairs)


def expected_logloss(probabilities: np.ndarray) -> float:
    """Log loss of true click probabilities against the clicks that they draw, in expectation: their mean entropy.

    Example:

    >>> round(expected_logloss(np.array([0.5, 1.0])), 4)
    0.3466
    """
    p = np.asarray(probabilities, np.float64)
    q = 1.0 - p
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(p > 0, p * np.log(p), 0.0) - np.where(q > 0, q * np.log(q), 0.0)
    return float(entropy.mean())


def drawn_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """AUC of scores (N,) on given labels, 0 and 1; ties count half. NaN where all labels are equal.

    Example:

    >>> drawn_auc(np.array([0.1, 0.4, 0.4]), np.array([0, 1, 0]))
    0.75
    """
    clicks = np.asarray(labels) == 1
    if clicks.all() or not clicks.any():
        return float("nan")
    return weighted_auc(probabilities, clicks.astype(np.int64), (~clicks).astype(np.int64))


def best(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """AUC and log loss of true click probabilities, inside (0, 1): in expectation, and on the labels that were drawn.

    Example:

    >>> sorted(best(np.array([0.25, 0.5]), np.array([0, 1])))
    ['auc', 'drawn_auc', 'drawn_logloss', 'logloss']
    """
    chosen = np.where(labels == 1, probabilities, 1.0 - probabilities)
    return {
        "auc": expected_auc(probabilities),
        "logloss": expected_logloss(probabilities),
        "drawn_auc": drawn_auc(probabilities, labels),
        "drawn_logloss": float(-np.log(chosen).mean()),
    }
