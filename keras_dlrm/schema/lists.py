"""Truncation of lists that are longer than a column's hotness, with their weights (NumPy)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_dlrm.schema.columns import Categorical


@dataclasses.dataclass(frozen=True)
class Lists:
    """The lists of B rows as they were given.

    Args:
        lengths: How many values each row has, int64 (B,); padding between and behind them included.
        starts: The first value of each row that is kept, int64 (B,).
    """

    lengths: np.ndarray
    starts: np.ndarray


def kept(column: Categorical, used: np.ndarray) -> np.ndarray:
    """The first value of each list that is kept, int64 (B,), given the lengths without missing values at the end (padding).

    Example:

    >>> kept(Categorical("tags", hotness=2, truncate="last"), np.array([1, 2, 5])).tolist()
    [0, 0, 3]
    """
    return np.maximum(used - column.hotness, 0) if column.truncate == "last" else np.zeros_like(used)


def used_lengths(missing: np.ndarray) -> np.ndarray:
    """Lengths of the rows without what is missing at their ends: bool (B, k) → int64 (B,).

    Example:

    >>> used_lengths(np.array([[False, True, False, True], [True, True, True, True]])).tolist()
    [3, 0]
    """
    ends = np.arange(1, missing.shape[1] + 1, dtype=np.int64)
    return np.where(missing, 0, ends).max(axis=1, initial=0)


def cut(values: np.ndarray, starts: np.ndarray, width: int, fill: Any) -> np.ndarray:
    """Values of the rows from `starts` on: (B, k) → (B, width), filled up on the right."""
    places = starts[:, None] + np.arange(width)
    padded = np.pad(values, ((0, 0), (0, max(width, 1))), constant_values=fill)
    return np.take_along_axis(padded, places, axis=1)
