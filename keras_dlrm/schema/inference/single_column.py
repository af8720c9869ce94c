"""AUC of a single column: whether it gives the label away."""

import numpy as np
import polars as pl

from keras_dlrm.support.auc import weighted_auc

_ROWS = 20_000  # of clicks, and of non-clicks, that are looked at
ENOUGH = 10  # of each to tell anything by


def rows_to_compare(labels: np.ndarray) -> np.ndarray:
    """Numbers of some rows of each kind of label, from all of the table; none where there are too few."""
    clicks = labels > 0.5
    kinds = [np.flatnonzero(clicks), np.flatnonzero(labels <= 0.5)]
    if min(map(len, kinds)) < ENOUGH:
        return np.empty(0, np.int64)
    return np.sort(np.concatenate([rows[:: -(-len(rows) // _ROWS)] for rows in kinds]))


def auc_alone(values: pl.Series, labels: np.ndarray, categorical: bool) -> float:
    """AUC of a column by itself: of its number, or of the click rate of its value among other rows. Lists have .5.

    Args:
        values: Its values, null where missing.
        labels: Labels, float (n,), of both kinds.
        categorical: Whether its values are names, in no order.

    Example:

    >>> labels = np.array([0.0, 1.0] * 50)
    >>> auc_alone(pl.Series(["no", "yes"] * 50), labels, categorical=True)
    1.0
    """
    clicks = (labels > 0.5).astype(np.int64)
    if isinstance(values.dtype, pl.Array):
        return 0.5
    if isinstance(values.dtype, pl.List):  # an empty list may stand for no click
        values, categorical = values.list.len(), False
    if not categorical:
        values = values.cast(pl.Float64, strict=False)
    ranks = values.rank("dense").fill_null(0).to_numpy().astype(np.int64)  # 0: missing
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
        clicked = np.bincount(codes[others], clicks[others], minlength=codes.max() + 1)
        rows = np.bincount(codes[others], minlength=codes.max() + 1)
        rates[half == own] = ((clicked + mean) / (rows + 1))[codes[half == own]]
    return rates
