"""Dense transforms (log1p, standardize, quantile …): fitting and application."""

from typing import Any

import numpy as np

from keras_dlrm.schema.columns import Dense

QUANTILES = 256
# A quantile fit keeps an evenly spaced sample of at most this many values.
SAMPLE = 2**20
# A deviation is none up to this share of the largest value: some units in the last place of a float64.
_ROUNDING = 4 * np.finfo(np.float64).eps
OUTSIDE = "is outside the range of float32; clip or drop it"


def needs_fit(column: Dense) -> bool:
    """True where the column's transform has parameters that training rows determine."""
    return column.transform not in ("none", "log1p")


class DenseFit:
    """Gathers what one column's transform needs, over many frames, in bounded memory."""

    def __init__(self, column: Dense) -> None:
        self.column, self._count = column, 0
        self._origin = self._mean = self._squares = self._largest = 0.0
        self._sample, self._stride = np.empty(0), 1
        self._minimum = np.inf

    def update(self, values: np.ndarray) -> None:
        """Take float64 values (n,), NaN where missing, into account; none is `unusable`."""
        if self.column.transform == "log1p_standardize":
            values = log1p(values).astype(np.float64)
        values = values[~np.isnan(values)]
        if not len(values):
            return
        if self.column.transform == "log_above_minimum":
            self._minimum = min(self._minimum, float(values.min()))
            return
        if "quantile" in self.column.transform:
            first = -self._count % self._stride
            self._sample = np.concatenate([self._sample, values[first :: self._stride]])
            while len(self._sample) > SAMPLE:
                self._sample = self._sample[::2]
                self._stride *= 2
            self._count += len(values)
            return
        if not self._count:
            self._origin = float(values[0])
        self._largest = max(self._largest, float(np.abs(values).max()))
        # Chan, Golub and LeVeque's update of a mean and a sum of squares by a further part. Both are of differences to the
        # first value of all: those of a constant are 0, and a large offset takes no digits from them.
        values = values - self._origin
        count, mean = len(values), float(values.mean())
        squares = float(((values - mean) ** 2).sum())
        total, delta = self._count + count, mean - self._mean
        self._squares += squares + delta * delta * self._count * count / total
        self._mean += delta * (count / total)
        self._count = total

    def state(self) -> dict[str, Any]:
        """The fitted parameters, as JSON values. A column without any value leaves everything at the middle."""
        if "quantile" in self.column.transform:
            quantiles = np.quantile(self._sample if len(self._sample) else np.zeros(1), np.linspace(0.0, 1.0, QUANTILES))
            return {"quantiles": (quantiles if self.column.transform == "quantile" else np.unique(quantiles)).tolist()}
        if self.column.transform == "log_above_minimum":
            return {"minimum": self._minimum if np.isfinite(self._minimum) else 0.0}
        deviation = float(np.sqrt(self._squares / self._count)) if self._count else 0.0
        # What rounding alone may make of a constant is no deviation, by which other values could be told apart.
        if deviation <= _ROUNDING * self._largest:
            deviation = 1.0
        return {"mean": self._origin + self._mean, "deviation": deviation}


def apply(column: Dense, state: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """Raw values, float64 (B,), NaN where missing → model inputs, float32 (B,), infinite where one is beyond float32.

    `state` is what `DenseFit.state` returned, `{}` where `needs_fit` is False.
    """
    missing = np.isnan(values)
    with np.errstate(over="ignore"):
        if column.transform == "none":
            out = values
        elif column.transform == "log1p":
            out = log1p(values)
        elif column.transform == "quantile":
            quantiles = np.asarray(state["quantiles"])
            ranks = np.searchsorted(quantiles, values, "left") + np.searchsorted(quantiles, values, "right")
            out = ranks / len(quantiles) - 1.0
        elif column.transform == "distinct_quantile":
            out = _places(np.asarray(state["quantiles"]), values)
        elif column.transform == "log_above_minimum":
            # In float32, to the bit what TorchRec makes of Criteo's counts.
            out = np.log((np.maximum(values - state["minimum"], 0.0) + 2.0).astype(np.float32))
        else:
            raw = log1p(values).astype(np.float64) if column.transform == "log1p_standardize" else values
            out = (raw - state["mean"]) / state["deviation"]
        return np.where(missing, column.missing, out).astype(np.float32)


def _places(quantiles: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Places among different quantiles in [-1, 1], linear in between; 0 where there is but one."""
    if len(quantiles) < 2:
        return np.zeros(len(values))
    values = np.clip(values, quantiles[0], quantiles[-1])
    below = np.clip(np.searchsorted(quantiles, values, "right") - 1, 0, len(quantiles) - 2)
    low, high = quantiles[below], quantiles[below + 1]
    return (below + (values - low) / (high - low)) * (2.0 / (len(quantiles) - 1)) - 1.0


def undo(column: Dense, state: dict[str, Any], inputs: np.ndarray) -> np.ndarray:
    """Model inputs (B,) → raw values, float64 (B,): the inverse of `apply` as far as there is one, for people to read."""
    out = np.asarray(inputs, np.float64)
    if column.transform == "quantile":
        n = len(state["quantiles"])
        return np.interp((n * (out + 1) - 1) / 2, np.arange(n), state["quantiles"])
    if column.transform == "distinct_quantile":
        return np.interp(out, np.linspace(-1, 1, len(state["quantiles"])), state["quantiles"])
    if column.transform == "log_above_minimum":
        return np.exp(out) - 2.0 + state["minimum"]
    if "standardize" in column.transform:
        out = out * state["deviation"] + state["mean"]
    return np.expm1(out) if "log1p" in column.transform else out


def unusable(column: Dense, values: np.ndarray) -> np.ndarray:
    """A mask, bool (n,), of values that are too large for their column whatever is fitted."""
    with np.errstate(over="ignore"):
        if "quantile" in column.transform:
            return np.zeros(len(values), bool)
        narrow = log1p(values) if column.transform == "log1p_standardize" else values.astype(np.float32)
    return np.isinf(narrow)


def log1p(values: np.ndarray) -> np.ndarray:
    """Numbers → float32 `log(max(x, 0) + 1)`, to the bit what the reference DLRM makes of Criteo's counts."""
    # In float32, and not np.log1p.
    out = np.maximum(values, 0).astype(np.float32)
    out += np.float32(1)
    return np.log(out, out=out)
