"""Exact scores in NumPy: AUC, log loss, NE, calibration, AUC by group."""

from typing import Any

import numpy as np

from keras_dlrm.metrics.reliability import expected_calibration_error, weighted_points
from keras_dlrm.metrics.validation import checked, distinct, masses, row_weights
from keras_dlrm.support.auc import tie_starts, weighted_auc

# Probabilities are clipped to [EPSILON, 1 - EPSILON] before a logarithm, as Keras' losses do: float32 predictions of
# exactly 0 or 1 would otherwise make the log loss infinite.
EPSILON = 1e-7


def auc(labels: Any, probabilities: Any) -> float:
    """Area under the ROC curve: the chance that a click is ranked above a non-click, ties counting one half.

    Exact, from ranks, in O(n log n); Keras' own `AUC` metric approximates with 200 thresholds.

    Args:
        labels: 0 or 1, (n,) or (n, 1).
        probabilities: Scores, (n,) or (n, 1); only their order matters, so logits do as well.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: bad shapes, labels that are not 0 or 1 or all equal, scores that are not finite.

    Example:

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    clicks, values = checked("auc", labels, probabilities, name="scores")
    return weighted_auc(values, clicks.astype(np.int64), (~clicks).astype(np.int64))


def grouped_auc(labels: Any, probabilities: Any, groups: Any, weights: Any = None) -> float:
    """AUC within each group (user, session), averaged with the groups' row counts, or row weights, as weights.

    Ranking competes within a user's page, which the AUC over all users blurs with how active users are. Groups in
    which only one class occurs have no AUC and are skipped.

    Args:
        labels: 0 or 1, or numbers between, (n,) or (n, 1).
        probabilities: Scores, (n,) or (n, 1); only their order matters.
        groups: Group of each row, (n,), of any type that sorts.
        weights: What each row counts, finite and at least 0, (n,) or (n, 1); 1 each by default.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: bad input as for `auc`, another number of groups than rows, or no group with both classes.

    Example:

    >>> round(grouped_auc([0, 1, 0, 1, 1], [0.2, 0.3, 0.9, 0.8, 0.5], ["u", "u", "v", "v", "w"]), 2)
    0.5

    Source: Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018, section 6.3.
    """
    clicks, values = checked("grouped_auc", labels, probabilities, name="scores", soft=True)
    whole = weights is None and clicks.dtype == bool  # counted in integers
    rows = np.ones(len(clicks), np.int64) if whole else row_weights("grouped_auc", weights, len(clicks))
    group = np.asarray(groups)
    if group.shape != clicks.shape:
        raise ValueError(f"grouped_auc: groups has shape {group.shape}; give one group per row, {clicks.shape}.")
    _, member, _ = distinct("grouped_auc", "groups", group)
    order = np.lexsort((values, member))
    member, rows = member[order], rows[order]
    positive = clicks[order] * rows
    starts = tie_starts(member, values[order])
    ties_positive, ties_negative = np.add.reduceat(positive, starts), np.add.reduceat(rows - positive, starts)
    # Pairs won by the rows of one tie: against the non-clicks of its group that stand below it, and half of its own.
    first = tie_starts(member[starts])
    below = np.cumsum(ties_negative) - ties_negative
    below -= np.repeat(below[first], np.diff(np.append(first, len(starts))))
    won = np.add.reduceat(ties_positive * (below + ties_negative / 2), first)
    n_positive, n_negative = np.add.reduceat(ties_positive, first), np.add.reduceat(ties_negative, first)
    mixed = (n_positive > 0) & (n_negative > 0)
    if not mixed.any():
        raise ValueError(f"grouped_auc: none of the {len(first)} groups has both a click and a non-click.")
    areas = won[mixed] / (n_positive[mixed] * n_negative[mixed])
    return float(np.average(areas, weights=(n_positive + n_negative)[mixed]))


def log_loss(labels: Any, probabilities: Any, epsilon: float = EPSILON) -> float:
    """Mean negative log likelihood (binary cross-entropy), in nats.

    Args:
        labels: 0 or 1, (n,) or (n, 1).
        probabilities: In [0, 1], (n,) or (n, 1), clipped to `[epsilon, 1 - epsilon]`.
        epsilon: Clipping; 0 gives infinity for a prediction that is certain and wrong.

    Returns:
        A number that is not negative.

    Raises:
        ValueError: bad shapes, labels that are not 0 or 1, probabilities outside [0, 1], epsilon outside [0, 0.5).

    Example:

    >>> round(log_loss([0, 1], [0.1, 0.6]), 4)
    0.3081
    """
    if not 0 <= epsilon < 0.5:
        raise ValueError(f"log_loss: epsilon={epsilon} must be in [0, 0.5); 1e-7 is the default.")
    clicks, values = checked("log_loss", labels, probabilities, both_classes=False)
    return float(row_losses(clicks, values, epsilon).mean())


def normalized_entropy(labels: Any, probabilities: Any) -> float:
    """Log loss over the entropy of the mean click rate; below 1 is better than predicting that rate.

    Args:
        labels: 0 or 1, (n,) or (n, 1).
        probabilities: In [0, 1], (n,) or (n, 1), clipped as in `log_loss`.

    Returns:
        A number that is not negative.

    Raises:
        ValueError: bad input as for `log_loss`, or labels all equal, whose entropy is zero.

    Example:

    >>> round(normalized_entropy([0, 0, 0, 1], [0.25, 0.25, 0.25, 0.25]), 6)
    1.0

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014, equation 3.
    """
    clicks, values = checked("normalized_entropy", labels, probabilities)
    rate = clicks.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    return float(row_losses(clicks, values).mean() / entropy)


def calibration(labels: Any, probabilities: Any) -> float:
    """Sum of the predicted probabilities over the number of clicks; 1 is right on average.

    Args:
        labels: 0 or 1, (n,) or (n, 1), at least one 1.
        probabilities: In [0, 1], (n,) or (n, 1).

    Returns:
        A number that is not negative; above 1 the model predicts too many clicks.

    Raises:
        ValueError: bad shapes or values, or no click.

    Example:

    >>> calibration([0, 1, 0, 0], [0.25, 0.5, 0.25, 0.5])
    1.5
    """
    clicks, values = checked("calibration", labels, probabilities, both_classes=False)
    if not clicks.any():
        raise ValueError(f"calibration: none of the {len(clicks)} labels is 1; it is defined only where clicks occur.")
    return float(values.sum() / clicks.sum())


def row_losses(clicks: np.ndarray, probabilities: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    """Negative log likelihood of each row, (n,), from bool clicks and probabilities clipped to `[epsilon, 1 - epsilon]`."""
    with np.errstate(divide="ignore"):
        chance = np.where(clicks, np.maximum(probabilities, epsilon), 1 - np.minimum(probabilities, 1 - epsilon))
        return np.maximum(-np.log(chance), 0.0)


def mass_losses(clicks: np.ndarray, others: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Negative log likelihood of rows that are so many clicks and so many non-clicks, (n,), clipped as in `row_losses`."""
    certain = np.ones(len(probabilities), bool)
    return clicks * row_losses(certain, probabilities) + others * row_losses(~certain, probabilities)


def scores(labels: Any, probabilities: Any, weights: Any = None) -> dict[str, float]:
    """The numbers that describe a click model: ranking, likelihood and calibration.

    Args:
        labels: 0 or 1, (n,) or (n, 1), both occurring. Also numbers between: y counts as y clicks and 1 - y non-clicks.
        probabilities: In [0, 1], (n,) or (n, 1).
        weights: What each row counts, finite and at least 0, (n,) or (n, 1); 1 each by default.

    Returns:
        `{"auc", "logloss", "ne", "calibration", "ece"}`: `auc`, `log_loss`, `normalized_entropy`, `calibration` and
        `expected_calibration_error`, as Python floats.

    Raises:
        ValueError: bad input, as for each of them.

    Example:

    >>> {name: round(value, 3) for name, value in scores([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).items()}
    {'auc': 0.75, 'logloss': 0.472, 'ne': 0.681, 'calibration': 0.825, 'ece': 0.337}
    >>> {name: round(value, 3) for name, value in scores([0, 1, 0.5], [0.2, 0.7, 0.4], [1, 2, 1]).items()}
    {'auc': 0.967, 'logloss': 0.413, 'ne': 0.624, 'calibration': 0.8, 'ece': 0.225}
    """
    clicks, values = checked("scores", labels, probabilities, both_classes=weights is None, soft=True)
    if weights is not None or clicks.dtype != bool:
        return _weighted_scores(clicks, values, weights)
    exact = {
        "auc": auc, "logloss": log_loss, "ne": normalized_entropy, "calibration": calibration, "ece": expected_calibration_error
    }  # fmt: skip
    return {name: score(clicks, values) for name, score in exact.items()}


def _weighted_scores(labels: Any, probabilities: Any, weights: Any) -> dict[str, float]:
    clicks, others, values = masses("scores", labels, probabilities, weights)
    total = clicks.sum() + others.sum()
    rate = clicks.sum() / total
    if not 0 < rate < 1:
        raise ValueError(f"scores: all labels are {int(rate)}; it is defined only where both 0 and 1 occur.")
    loss = mass_losses(clicks, others, values).sum() / total
    predicted, observed, count = weighted_points(clicks, others, values, 10)
    return {
        "auc": weighted_auc(values, clicks, others),
        "logloss": float(loss),
        "ne": float(loss / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))),
        "calibration": float((values * (clicks + others)).sum() / clicks.sum()),
        "ece": float(np.average(np.abs(predicted - observed), weights=count)),
    }
