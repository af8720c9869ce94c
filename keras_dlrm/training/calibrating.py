"""Calibration of a trained model: its logits shifted to the click rate of the validation part, which it was not trained on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from keras_dlrm.files.checksums import digest, read_json
from keras_dlrm.files.durable import whole, write
from keras_dlrm.training.callbacks import predictions
from keras_dlrm.training.linear import sigmoid

# Standard errors within which a difference counts as noise: by two or three, small logs of even click rates were shifted at times,
# and their test parts were the worse for it.
_NOISE = 4.0
_SHIFTS = (-20.0, 20.0)
_PROBED = 64  # rows


def calibrate(model: Any, part: Any, batch_size: int, esmm: bool = False) -> dict[str, float]:
    """Shift the logits of each label whose expected clicks differ from the clicks of a part by more than four standard errors.

    Ranks stay as they are; each label's mean prediction becomes its click rate (the prior correction of King and Zeng 2001,
    "Logistic Regression in Rare Events Data"). A bias moves, frozen or not: the one that moves the logits of all rows alike, which
    is found by trying. A label without one, such as that of a product of two vectors, stays as it is.

    Args:
        model: A `ClickModel`.
        part: The `Split`.
        batch_size: Rows of a batch.
        esmm: Whether the second label's predictions are those of rows with the first one, as of `kd.losses.ESMM`.

    Returns:
        Shifts of logits by label; labels that stayed as they were are left out.
    """
    expected = _columns(model, part, batch_size)
    labels, weights = np.asarray(part.labels, np.float64).reshape(len(part), -1), part.sample_weights()
    shifts = {}
    for i, name in enumerate(part.schema.labels):
        known = ~np.isnan(labels[:, i]) & ((labels[:, 0] == 1) if esmm and i else True)
        own = labels[known, i], expected[known, i], None if weights is None else np.asarray(weights)[known]
        shift = lacking(*own)
        shifted = _shift_bias(model, part, batch_size, expected, i, shift) if shift else None
        if shifted is not None:
            expected, shifts[name] = shifted, shift
    return shifts


def calibrate_file(path: Path, kept: Path, model: Any, part: Any, batch_size: int, esmm: bool) -> dict[str, float]:
    """Calibrate the model of a file, and write it there; the shifts, also where a killed run has done so before.

    Args:
        path: The `.keras` file.
        kept: File that remembers the shifts until the caller removes it.
        model: The model, loaded from there.
        part, batch_size, esmm: As of `calibrate`.
    """
    if kept.is_file():
        before = read_json(kept)
        if before["sha256"] == digest(path):
            return dict(before["shifts"])
    shifts = calibrate(model, part, batch_size, esmm)
    if shifts:
        with whole(path) as written:
            model.save(written)
            write(kept, json.dumps({"sha256": digest(written), "shifts": shifts}))
    return shifts


def lacking(labels: Any, expected: Any, weights: Any = None) -> float:
    """The shift that the logits of predictions lack; 0 where their mean is the click rate within noise, or the rows have one class.

    Args:
        labels: 0 or 1, (N,).
        expected: Predictions, (N,).
        weights: Of the rows, (N,); 1 if omitted.

    Example:

    >>> round(lacking(np.arange(1000) % 10 == 0, np.full(1000, 0.5)), 3), lacking(np.arange(1000) % 10 == 0, np.full(1000, 0.101))
    (-2.197, 0.0)
    """
    labels, expected = np.asarray(labels, np.float64), np.asarray(expected, np.float64)
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    seen = labels[weights > 0]
    noise = np.sqrt(np.sum(weights**2 * expected * (1 - expected)))
    one_class = min(np.sum(seen), np.sum(1 - seen)) == 0
    if one_class or abs(np.sum(weights * (labels - expected))) <= _NOISE * noise:
        return 0.0
    logits, clicks = logits_of(expected), np.sum(weights * labels)
    low, high = _SHIFTS
    for _ in range(50):
        middle = (low + high) / 2
        fewer = np.sum(weights * sigmoid(logits + middle)) < clicks
        low, high = (middle, high) if fewer else (low, middle)
    return (low + high) / 2


def _shift_bias(model: Any, part: Any, batch_size: int, expected: np.ndarray, label: int, shift: float) -> np.ndarray | None:
    """Shift the logits of a label, and of no other, by a bias: the predictions then; `None` where none does so for all rows.

    `expected` are the predictions for the part before, (N, T) of T labels.
    """
    rows = np.unique(np.linspace(0, len(part) - 1, min(_PROBED, batch_size)).astype(np.int64))
    batch = part.take(rows)[0]

    def probed() -> np.ndarray:
        return logits_of(np.asarray(model.predict_on_batch(batch), np.float64))

    before = probed()
    wanted = expected.copy()
    wanted[:, label] = sigmoid(logits_of(expected[:, label]) + shift)
    for variable in reversed(model.weights):
        if variable.path.rpartition("/")[2] != "bias" or tuple(variable.shape) not in {(1,), before.shape[1:]}:
            continue
        value = ops.convert_to_numpy(variable.value)
        one = np.zeros_like(value)
        one[label if len(one) > 1 else 0] = 1.0
        variable.assign(value + one)
        slope = np.median(probed()[:, label] - before[:, label])
        if abs(slope) > 0.1:
            variable.assign(value + one * (shift / slope))
            after = _columns(model, part, batch_size)
            if np.allclose(after, wanted, rtol=0.01, atol=1e-5):  # float32, and bfloat16 before it, leave no more of them
                return after
        variable.assign(value)
    return None


def _columns(model: Any, part: Any, batch_size: int) -> np.ndarray:
    return predictions(model, part, batch_size).reshape(len(part), -1)


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Logits of probabilities, which are at least 1e-12 from 0 and 1 for it."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)  # type: ignore[no-any-return]
