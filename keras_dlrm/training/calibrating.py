"""Calibration of a trained model: its logits shifted to the click rate of the validation part, which is the newest it may see."""

from typing import Any

import numpy as np
from keras import ops

from keras_dlrm.training.callbacks import predictions

# Standard errors by which expected clicks and clicks differ before that is no longer taken for noise.
_NOISE = 2.0
_SHIFTS = (-20.0, 20.0)
_PROBED = 64  # rows


def calibrate(model: Any, part: Any, batch_size: int) -> dict[str, float]:
    """Shift the logits of each label whose expected clicks differ from the clicks of a part by more than two standard errors.

    Ranks stay as they are; each label's mean prediction becomes its click rate (the prior correction of King and
    Zeng 2001, "Logistic Regression in Rare Events Data"). One bias moves, found by trying: the one that moves the logits of all
    rows alike. A model without one, such as a product of two vectors, stays as it is.

    Args:
        model: A `ClickModel`.
        part: The `Split`.
        batch_size: Rows of a batch.

    Returns:
        Shifts of logits by label; labels that stayed as they were are left out.
    """
    expected = predictions(model, part, batch_size).reshape(len(part), -1)
    labels = np.asarray(part.labels, np.float64).reshape(len(part), -1)
    sample_weights = part.sample_weights()
    weights = np.ones(len(part)) if sample_weights is None else np.asarray(sample_weights, np.float64)
    shifts = {}
    for i, name in enumerate(part.schema.labels):
        known = ~np.isnan(labels[:, i])
        shift = _shift(labels[known, i], expected[known, i], weights[known])
        if shift and _moved(model, part.take(slice(0, min(_PROBED, batch_size)))[0], i, shift):
            shifts[name] = shift
    return shifts


def _shift(labels: np.ndarray, expected: np.ndarray, weights: np.ndarray) -> float:
    """The shift that the logits of predictions lack; 0 where their mean is the click rate within noise."""
    noise = np.sqrt(np.sum(weights**2 * expected * (1 - expected)))
    if abs(np.sum(weights * (labels - expected))) <= _NOISE * noise:
        return 0.0
    logits, clicks = _logits(expected), np.sum(weights * labels)
    low, high = _SHIFTS
    for _ in range(50):
        middle = (low + high) / 2
        fewer = np.sum(weights / (1 + np.exp(-logits - middle))) < clicks
        low, high = (middle, high) if fewer else (low, middle)
    return (low + high) / 2


def _moved(model: Any, batch: Any, label: int, shift: float) -> bool:
    """Shift the logits of a label, and of no other, by a bias; false where there is none that does so."""

    def logits() -> np.ndarray:
        return _logits(np.asarray(model.predict_on_batch(batch), np.float64))

    before = logits()
    exact = np.abs(before[:, label]) < 8  # of others float32 probabilities say too little
    for variable in reversed(model.weights):
        if variable.path.rpartition("/")[2] != "bias" or tuple(variable.shape) not in {(1,), before.shape[1:]}:
            continue
        value = ops.convert_to_numpy(variable.value)
        one = np.zeros_like(value)
        one[label if len(one) > 1 else 0] = 1.0
        variable.assign(value + one)
        change = (logits() - before)[exact]
        if len(change) and _is_shift(change, label):
            variable.assign(value + one * shift / change[:, label].mean())
            return True
        variable.assign(value)
    return False


def _is_shift(change: np.ndarray, label: int) -> bool:
    own, others = change[:, label], np.delete(change, label, axis=1)
    return bool(np.all(np.abs(own - own.mean()) < 0.02) and abs(own.mean()) > 0.1 and np.all(np.abs(others) < 0.02))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)  # type: ignore[no-any-return]
