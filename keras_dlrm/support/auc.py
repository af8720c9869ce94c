"""Area under the ROC curve, exact: pairs of equal scores count as half won."""

import numpy as np


def tie_starts(*keys: np.ndarray) -> np.ndarray:
    """Starts of the runs of equal rows, in arrays (n,), n ≥ 1, that are sorted together.

    Example:

    >>> tie_starts(np.array([1, 1, 2, 5, 5])).tolist()
    [0, 2, 3]
    """
    changed = np.zeros(len(keys[0]), dtype=bool)
    changed[0] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)


def weighted_auc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """AUC of rows (n,) in any order, each of so many clicks and non-clicks, or of their weight; exact of integers.

    Example:

    >>> weighted_auc(np.array([0.8, 0.1, 0.4, 0.35]), np.array([1, 0, 0, 1]), np.array([0, 1, 1, 0]))
    0.75
    """
    order = np.argsort(scores)
    starts = tie_starts(scores[order])
    return auc_of_counts(np.add.reduceat(positive[order], starts), np.add.reduceat(negative[order], starts))


def auc_of_counts(positive: np.ndarray, negative: np.ndarray) -> float:
    """AUC from the numbers of clicks and non-clicks at each distinct score, in ascending order of score.

    Integers give an area that is exact up to one rounding as long as both totals stay below 2³¹.

    Example:

    >>> auc_of_counts(np.array([0, 1, 1]), np.array([1, 1, 0]))
    0.875
    """
    below = np.cumsum(negative)
    total = positive.sum() * below[-1]
    # Twice the pairs won, a whole number: 2 · (non-clicks below) + 1 · (non-clicks at the same score).
    return float(np.dot(positive, 2 * below - negative) / (2 * total))
