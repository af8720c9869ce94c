"""Click probabilities: expected scores in closed form, scale and shift for a rate and an AUC, normal scores."""

from statistics import NormalDist

import numpy as np

from keras_dlrm.support.auc import weighted_auc


def expected_auc(probabilities: np.ndarray) -> float:
    """AUC of true click probabilities against the clicks that they draw, in expectation.

    The expected number of pairs (clicked, not clicked) in the right order, over the expected number of pairs:
    `Σ_{i≠j} p_i (1 − p_j) ([p_i > p_j] + ½ [p_i = p_j]) / Σ_{i≠j} p_i (1 − p_j)`.
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
    """Log loss of true click probabilities against the clicks that they draw, in expectation: their mean entropy."""
    p = np.asarray(probabilities, np.float64)
    q = 1.0 - p
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(p > 0, p * np.log(p), 0.0) - np.where(q > 0, q * np.log(q), 0.0)
    return float(entropy.mean())


def drawn_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """AUC of scores (N,) on given labels, 0 and 1; ties count half. NaN where all labels are equal."""
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


def sigmoid(x: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-x))`, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def scale_and_bias(logit: np.ndarray, click_rate: float, target_auc: float) -> tuple[float, float]:
    """Scale and bias that give `sigmoid(scale * logit + bias)` a mean and an AUC, in expectation; AUC 0.5 gives scale 0.

    Example:

    >>> scale, bias = scale_and_bias(np.linspace(-1, 1, 1001), 0.5, 0.75)
    >>> bool(abs(bias) < 0.01), bool(1.0 < scale < 3.0)
    (True, True)
    """
    low, high = 0.0, 32.0
    for _ in range(24):
        scale = (low + high) / 2.0
        auc = expected_auc(sigmoid(scale * logit + _bias(scale * logit, click_rate)))
        low, high = (scale, high) if auc < target_auc else (low, scale)
    return scale, _bias(scale * logit, click_rate)


def _bias(logit: np.ndarray, click_rate: float) -> float:
    low, high = -64.0, 64.0
    for _ in range(32):
        bias = (low + high) / 2.0
        low, high = (bias, high) if sigmoid(logit + bias).mean() < click_rate else (low, bias)
    return bias


_GRID = np.linspace(-6.0, 6.0, 2401)
_SHARES = np.array([NormalDist().cdf(x) for x in _GRID])


def normal_share(scores: np.ndarray) -> np.ndarray:
    """Share of a standard normal distribution below each score, to 6 digits.

    Example:

    >>> normal_share(np.array([0.0]))
    array([0.5])
    """
    return np.interp(scores, _GRID, _SHARES)


def normal_score(shares: np.ndarray) -> np.ndarray:
    """Inverse of `normal_share`."""
    return np.interp(shares, _SHARES, _GRID)
