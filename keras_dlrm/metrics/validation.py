"""Checks of whole arrays of labels and scores, shared by the exact scores."""

from __future__ import annotations

from typing import Any

import numpy as np


def checked(
    function: str, labels: Any, values: Any, *, name: str = "probabilities", both_classes: bool = True, soft: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool (n,) and scores as float64 (n,), or a `ValueError` in the name of `function` that says what is wrong.

    Labels and `values` are (n,) or (n, 1). Where `name` starts with "probabilities", values must lie in [0, 1]. With `soft`
    labels may lie between 0 and 1; they are float64 then.

    Example:

    >>> labels, values = checked("auc", [0, 1], [[0.25], [0.5]])
    >>> labels.tolist(), values.tolist()
    ([False, True], [0.25, 0.5])
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
        raise ValueError(
            f"{function}: all {len(truth)} labels are {int(clicks[0])}; it is defined only where both 0 and 1 occur."
        )
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
