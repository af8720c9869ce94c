"""Checks of whole arrays of labels, scores and weights, shared by the exact scores."""

from typing import Any

import numpy as np


def checked(
    function: str, labels: Any, values: Any, *, name: str = "probabilities", both_classes: bool = True, soft: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool (n,) and scores as float64 (n,), or a `ValueError` in the name of `function` that says what is wrong.

    Labels and `values` are (n,) or (n, 1). Where `name` starts with "probabilities", values must lie in [0, 1]. With `soft`
    labels may lie between 0 and 1; they are float64 then.
    """
    truth = flat(function, "labels", labels)
    scores = flat(function, name, values).astype(np.float64)
    if len(truth) != len(scores):
        raise ValueError(f"{function}: {len(truth)} labels but {len(scores)} {name}; give one of each per example.")
    if len(truth) == 0:
        raise ValueError(f"{function}: labels is empty; give at least one example.")
    sharp = (truth == 0) | (truth == 1)
    wrong = ~(sharp | ((truth >= 0) & (truth <= 1))) if soft else ~sharp
    if wrong.any():
        row = int(np.argmax(wrong))
        allowed = "0 or 1, or a number between" if soft else "0 or 1"
        raise ValueError(f"{function}: labels[{row}] is {truth[row]}; labels must be {allowed}.")
    wrong = ~np.isfinite(scores)
    if name.startswith("probabilities"):
        wrong |= (scores < 0) | (scores > 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        allowed = "in [0, 1]; apply a sigmoid to logits" if name.startswith("probabilities") else "finite"
        raise ValueError(f"{function}: {name}[{row}] is {scores[row]}; it must be {allowed}.")
    if not sharp.all():
        return truth.astype(np.float64), scores
    clicks = truth == 1
    if both_classes and (clicks.all() or not clicks.any()):
        raise ValueError(f"{function}: all {len(truth)} labels are {int(clicks[0])}; it is defined only where both 0 and 1 occur.")
    return clicks, scores


def flat(function: str, name: str, values: Any) -> np.ndarray:
    """An array of shape (n,) or (n, 1), of bool or real numbers, flattened; a `ValueError` for any other."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{function}: {name} has shape {array.shape}; it must be (n,) or (n, 1).")
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ValueError(f"{function}: {name} has dtype {array.dtype}; it must be numeric.")
    return array


def masses(function: str, labels: Any, probabilities: Any, weights: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight of each row as a click and as a non-click, and its prediction; rows of weight 0 are left out.

    A label y of a row of weight w is y · w clicks and (1 - y) · w non-clicks. The three arrays are float64 (k,). Bad shapes or
    values, or no row that counts, are a `ValueError` in the name of `function`.
    """
    truth, values = checked(function, labels, probabilities, both_classes=False, soft=True)
    rows = row_weights(function, weights, len(truth))
    counts = rows > 0
    if not counts.any():
        raise ValueError(f"{function}: all {len(rows)} weights are 0; at least one row must count.")
    truth, values, rows = truth[counts].astype(np.float64), values[counts], rows[counts]
    return truth * rows, (1 - truth) * rows, values


def distinct(function: str, name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Different values in ascending order, the place of each value among them, and how often each occurs.

    `ValueError` where values have no order.
    """
    try:
        return np.unique(values, return_inverse=True, return_counts=True)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in values.tolist()})
        raise ValueError(
            f"{function}: {name} holds values of the types {kinds}, which have no order; fill in missing ones."
        ) from None


def row_weights(function: str, weights: Any, n: int, rows_are: str = "labels") -> np.ndarray:
    """Weights of `n` rows, float64 (n,), 1 each where `weights` is `None`; a `ValueError` names a bad one."""
    rows = np.ones(n) if weights is None else flat(function, "weights", weights).astype(np.float64)
    if len(rows) != n:
        raise ValueError(f"{function}: {n} {rows_are} but {len(rows)} weights; give one of each per example.")
    wrong = ~(np.isfinite(rows) & (rows >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{function}: weights[{row}] is {rows[row]}; it must be a finite number of at least 0.")
    return rows
