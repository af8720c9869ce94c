"""Scores of the rows of each value of a column, and of ids that were frequent or rare in training."""

from typing import Any

import numpy as np

from keras_dlrm.metrics.scores import EPSILON, scores
from keras_dlrm.metrics.validation import distinct, masses, row_weights
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.support.arguments import integer

#: Names of the bands that `frequency_bands` numbers.
BANDS = ("head", "torso", "tail", "unseen")


def scores_by_slice(labels: Any, probabilities: Any, slices: Any, weights: Any = None, most: int = 20) -> list[dict[str, Any]]:
    """Scores of the rows of each value of a column, the most frequent value first.

    Args:
        labels: 0 or 1, or numbers between, (n,) or (n, 1).
        probabilities: In [0, 1], (n,) or (n, 1).
        slices: Value of each row, (n,), of any type that sorts. Or lists of ids, integers (n, k) padded with -1: a row then
            counts in the slice of each of its ids, and one without ids in that of -1.
        weights: What each row counts, finite and at least 0, (n,) or (n, 1); 1 each by default.
        most: Values that get a slice of their own, the most frequent ones. The others share a last one.

    Returns:
        For each slice `{"value", "values", "rows", "click_rate", "predicted", "auc", "auc_error", "logloss", "ne",
        "calibration"}`. `value` is `None` for the others, `values` how many values these are. `predicted` is the mean
        prediction, `auc_error` half of the AUC's 95% interval. AUC, NE and calibration are `None` where they are not defined:
        in slices without a click or without a non-click.

    Raises:
        ValueError: bad shapes or values, or `most` below 1.

    Example:

    >>> found = scores_by_slice([0, 1, 0, 1], [0.1, 0.4, 0.3, 0.5], ["fr", "fr", "fr", "de"])
    >>> [(row["value"], row["rows"], row["auc"]) for row in found]
    [('fr', 3, 1.0), ('de', 1, None)]

    Source: the interval of the AUC is that of Hanley and McNeil, Radiology 143, 1982.
    """
    most = integer("scores_by_slice", "most", most)
    truth, probability = np.asarray(labels).reshape(-1), np.asarray(probabilities).reshape(-1)
    masses("scores_by_slice", labels, probabilities, weights)  # checks them all
    rows, values = _pairs(np.asarray(slices), len(truth))
    counts = row_weights("scores_by_slice", weights, len(truth))
    counted = counts[rows] > 0
    rows, values = rows[counted], values[counted]
    different, member, sizes = distinct("scores_by_slice", "slices", values)
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.minimum(np.arange(len(order)), most)
    ranks, names, found = rank[member], different[order[:most]].tolist(), []
    for place in range(min(len(order), most + 1)):
        chosen = rows[ranks == place]
        if place == most:  # lists may have several of the others
            chosen = np.unique(chosen)
        own = None if weights is None else counts[chosen]
        kind: dict[str, Any] = {"value": None, "values": len(order) - most}
        if place < most:
            kind = {"value": names[place], "values": 1}
        found.append({**kind, "rows": len(chosen), **_scores(truth[chosen], probability[chosen], own)})
    return found


def _pairs(slices: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and a value of each: one for each row, or one for each different id of its list."""
    if slices.ndim not in (1, 2) or len(slices) != n or (slices.ndim == 2 and slices.dtype.kind not in "iu"):
        raise ValueError(
            f"scores_by_slice: slices is {slices.dtype} of shape {slices.shape}; give one value per row, ({n},), or lists of "
            f"ids, integers ({n}, k)."
        )
    if slices.ndim == 1:
        return np.arange(n), slices
    ids = np.sort(slices, axis=1)
    first = np.ones(ids.shape, dtype=bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    empty = (ids == PADDING).all(axis=1)
    rows, places = np.nonzero(first & ((ids != PADDING) | empty[:, None]))
    return rows, ids[rows, places]


def _scores(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None) -> dict[str, float | None]:
    """Scores of one slice, `None` where they are not defined."""
    clicks, others, values = masses("scores_by_slice", labels, probabilities, weights)
    total, clicked = (clicks + others).sum(), clicks.sum()
    known = {"click_rate": float(clicked / total), "predicted": float(((clicks + others) * values).sum() / total)}
    if 0 < clicked < total:
        exact = scores(labels, probabilities, weights)
        error = 1.96 * _auc_deviation(exact["auc"], float(labels.sum()), float(len(labels) - labels.sum()))
        rest = {name: exact[name] for name in ("logloss", "ne", "calibration")}
        return {**known, "auc": exact["auc"], "auc_error": error, **rest}
    clipped = np.clip(values, EPSILON, 1 - EPSILON)
    loss = float(-(clicks * np.log(clipped) + others * np.log1p(-clipped)).sum() / total)
    calibration = float(((clicks + others) * values).sum() / clicked) if clicked else None
    return {**known, "auc": None, "auc_error": None, "logloss": loss, "ne": None, "calibration": calibration}


def _auc_deviation(area: float, clicks: float, others: float) -> float:
    """Standard deviation of an AUC by chance, of so many clicks and non-clicks.

    One more row of the rarer class, at an AUC of one half, is added: without it an AUC of 1 would be certain, however few they are.
    """
    fewer = min(clicks, others)
    area = (area * fewer + 0.5) / (fewer + 1)
    of_clicks, of_others = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    variance = area * (1 - area) + (clicks - 1) * of_clicks + (others - 1) * of_others
    return float(np.sqrt(max(variance, 0.0) / max(clicks * others, 1e-12)))


def frequency_bands(counts: Any, shares: tuple[float, float] = (0.25, 0.75)) -> np.ndarray:
    """Whether each id was frequent or rare in training: 0 head, 1 torso, 2 tail, 3 unseen, the places of `BANDS`.

    Ids are put in order by their exposures, the most frequent one first. An id is of the head where the ids before it have
    less than the first of `shares` of all exposures, of the torso where they have less than the second, and else of the
    tail: the three have about a quarter, a half and a quarter of the exposures. Ids with equal counts are in one band,
    that of their middle one.

    Args:
        counts: Exposures of each id in the training part, integers (V,), at least 0.
        shares: Shares of the exposures at which head and torso end.

    Returns:
        int8 (V,).

    Raises:
        ValueError: counts of another shape or type, or negative ones; shares that are not 0 ≤ first ≤ second ≤ 1.

    Example:

    >>> frequency_bands([600, 250, 100, 25, 25, 0]).tolist()
    [0, 1, 2, 2, 2, 3]

    Source: Zheng et al., Enhancing Embedding Representation Stability in Recommendation Systems with Semantic ID, RecSys 2025
    (head, torso and tail of 25%, 50% and 25% of the exposures).
    """
    seen = np.asarray(counts)
    if seen.ndim != 1 or seen.dtype.kind not in "iu" or (seen.dtype.kind == "i" and (seen < 0).any()):
        raise ValueError(f"frequency_bands: counts is {seen.dtype} of shape {seen.shape}; give integers (V,) of at least 0.")
    if len(shares) != 2 or not 0 <= shares[0] <= shares[1] <= 1:
        raise ValueError(f"frequency_bands: shares={shares} must be two numbers with 0 <= first <= second <= 1.")
    different, member, ids = np.unique(seen, return_inverse=True, return_counts=True)
    mass = different.astype(np.float64) * ids
    before = mass.sum() - np.cumsum(mass)  # exposures of the ids that are more frequent
    middle = before + different * (ids - 1) / 2
    band = np.searchsorted(np.asarray(shares) * mass.sum(), middle, side="right")
    return np.where(different == 0, 3, band).astype(np.int8)[member]
