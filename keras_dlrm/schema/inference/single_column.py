"""AUC of a single column: whether it gives the label away."""

import numpy as np
import polars as pl

from keras_dlrm.support.auc import weighted_auc


def auc_alone(values: pl.Series, where: np.ndarray, labels: np.ndarray, categorical: bool) -> float:
    """AUC of a column by itself: of its number, or of the click rate of its value among other rows. Lists have .5.

    Args:
        values: Its values where there are any.
        where: Rows that have one, bool (n,).
        labels: Labels, float (n,).
        categorical: Whether its values are names, in no order.

    Example:

    >>> labels = np.array([0.0, 1.0] * 50)
    >>> auc_alone(pl.Series(["no", "yes"] * 50), np.ones(100, bool), labels, categorical=True)
    1.0
    """
    clicks = (labels > 0.5).astype(np.int64)
    if clicks.min() == clicks.max() or isinstance(values.dtype, (pl.List, pl.Array)):
        return 0.5
    if not categorical:
        values = values.cast(pl.Float64, strict=False)
    ranks = np.zeros(len(labels), np.int64)  # 0: missing
    ranks[where] = values.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    areas = [weighted_auc(_rates(ranks, clicks), clicks, 1 - clicks)]
    if not categorical:
        straight = weighted_auc(ranks, clicks, 1 - clicks)
        areas += [straight, 1 - straight]
    return max(areas)


def _rates(codes: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    """Click rate of each row's value among the rows of the other half."""
    half = np.random.default_rng(0).integers(0, 2, len(codes))
    rates, mean = np.empty(len(codes)), clicks.mean()
    for own in (0, 1):
        others = half != own
        found = np.bincount(codes[others], clicks[others], minlength=codes.max() + 1)
        rows = np.bincount(codes[others], minlength=codes.max() + 1)
        rates[half == own] = ((found + mean) / (rows + 1))[codes[half == own]]
    return rates
