"""Logistic regression on a click log in NumPy: seconds, no compilation, and the same numbers on every backend.

It stands beside `kd.models.LogisticRegression` because it is the yardstick of every result table, not a model to serve. It shares
no code with what it measures: a fault in tables, step or optimizer would make both worse, and the verdict would not show it. It
looks for its penalty on the validation part, five fits at most, without a compilation for each, so that all runs can afford it.
And its scores are the same on TensorFlow, JAX and torch, so that results of different backends stand beside one baseline.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_dlrm.metrics import scores
from keras_dlrm.schema.columns import ENCODED_MISSING, PADDING
from keras_dlrm.schema.hashing import fold
from keras_dlrm.schema.schema import Schema

_BINS = 32  # of an encoded dense column
_FARTHEST = 10.0  # standard deviations of a dense value
_TABLE_ROWS = 2**24  # weights of ids, a power of two; more of them share some
_READ = 40_000_000  # values of the training rows that are read, at most
_WORK = 60_000_000  # values of all epochs, about
_BLOCK = 65_536  # rows
_TOGETHER = 4096  # rows of small batches that are read in one go
_RATE = 0.1
_PENALTIES = (30.0, 10.0, 3.0, 1.0, 0.3)
_FEWER = (10.0, 1.0)  # for long logs


class LinearModel:
    """logit = bias + Σ weights of the row's ids + Σ weight · dense value, piecewise linear in encoded dense columns.

    The function of `kd.models.LogisticRegression`, with a penalty of λ/2 Σ weight² on the sum of all rows' losses; λ is 1/C of
    scikit-learn. It begins at 30 and falls to 0.3, as long as that makes the validation part's log loss smaller; without one to
    3. Adagrad in a few epochs brings it about. Of a long log some rows are read, spread over all of it.

    Args:
        schema: A fitted `Schema`.

    Example:

    >>> import tempfile
    >>> schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 50)])
    >>> log = kd.data.synthetic.PlantedClickLog(schema, seed=0).write(tempfile.mkdtemp() + "/log", {"train": 4000, "test": 1000})
    >>> model = LinearModel(schema)
    >>> model.fit(log.split("train"), None)
    >>> model.predict(log.split("test")).shape
    (1000,)
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._plain = [i for i, column in enumerate(schema.dense) if column.encoding is None]
        self._encoded = [i for i, column in enumerate(schema.dense) if column.encoding is not None]
        # Weights: one of padding, which stays 0, the bias, plain dense columns, encoded ones, then the tables.
        self._bins = 2 + len(self._plain)
        self._tables = self._bins + len(self._encoded) * (_BINS + 2)
        sizes = schema.table_sizes
        starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
        hotness = np.array([column.hotness for column in schema.categorical], np.int64)
        names = [column.table_name for column in schema.categorical]
        self._starts = np.repeat([starts[name] for name in names], hotness).astype(np.int64)
        self._sizes = np.repeat([sizes[name] for name in names], hotness).astype(np.int64)
        self._weights = np.zeros(self._tables + min(sum(sizes.values()), _TABLE_ROWS), np.float32)
        self._mean, self._scale = np.zeros(schema.n_dense), np.ones(schema.n_dense)
        self.rows = 0
        self.rate = 0.5

    def fit(self, part: Any, valid: Any, seed: int = 0) -> None:
        """Train on the rows of a `Split`, with the penalty that suits another one, if there is one.

        `rows` is how many were read, `rate` their click rate.
        """
        rng = np.random.default_rng(seed)
        values = 1 + self.schema.n_dense + len(self._encoded) + self.schema.width
        self.rows = min(len(part), max(_READ // values, 1))
        chosen = np.arange(len(part))
        if self.rows < len(part):
            chosen = np.sort(rng.choice(len(part), self.rows, replace=False))
        pull = self._prepare(part, chosen)
        sums = np.zeros_like(self._weights)
        affordable = _WORK // (values * self.rows)
        penalties = _PENALTIES if affordable >= len(_PENALTIES) else _FEWER
        best, least = self._weights, np.inf
        for penalty in penalties if valid is not None else penalties[:3]:
            squares = np.ones_like(self._weights)
            for _ in range(int(np.clip(affordable // len(penalties), 1, 8))):
                mean = self._epoch(part, rng.permutation(chosen), penalty * pull, squares, sums)
            self._weights = mean
            if valid is not None:
                loss = scores(valid.labels, self.predict(valid), valid.sample_weights())["logloss"]
                if loss >= least:
                    self._weights = best
                    break
                best, least = mean.copy(), loss

    def predict(self, part: Any) -> np.ndarray:
        """p(click) of a `Split`, float64 (N,)."""
        return np.concatenate([sigmoid(self._logits(*self._inputs(batch))) for batch, *_ in part.batches(_BLOCK)])

    def _prepare(self, part: Any, chosen: np.ndarray) -> np.ndarray:
        """Take the click rate and the dense columns' statistics; the penalty of each weight at each of its appearances."""
        counts = np.zeros_like(self._weights)
        total, clicks, mass = np.zeros((2, self.schema.n_dense)), 0.0, 0.0
        for start in range(0, len(chosen), _BLOCK):
            rows = chosen[start : start + _BLOCK]
            batch, labels = part.take(rows)
            slots, _ = self._inputs(batch)
            np.add.at(counts, slots.reshape(-1), np.ones(slots.size, np.float32))  # one number for all takes ten times as long
            if self.schema.dense:
                dense = batch["dense"].astype(np.float64)
                total += dense.sum(0), (dense * dense).sum(0)
            weights = _row_weights(part, rows)
            clicks, mass = clicks + float(labels @ weights), mass + float(weights.sum())
        self.rate = clicks / max(mass, 1e-30)
        self._mass = mass / len(chosen)
        self._mean = total[0] / len(chosen)
        deviation = np.sqrt(np.maximum(total[1] / len(chosen) - self._mean**2, 0.0))
        self._scale = np.where(deviation > 1e-6 * np.maximum(np.abs(self._mean), 1e-30), deviation, np.inf)
        inside = np.clip(self.rate, 1e-6, 1 - 1e-6)
        self._weights[1] = np.log(inside / (1 - inside))
        pull = np.float32(1) / np.maximum(counts, 1.0)
        pull[:2] = 0.0
        return pull

    def _epoch(self, part: Any, order: np.ndarray, pull: np.ndarray, squares: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """One epoch; the mean of the weights at some steps of its second half, which predict better than the last ones."""
        size = int(np.clip(len(order) // 200, 32, 4096))
        steps = -(-len(order) // size)
        kept = range(steps - 1, steps // 2 - 1, -max(steps // 32, 1))
        mean = np.zeros_like(self._weights)
        for step, values in enumerate(self._batches(part, order, size)):
            self._step(values, pull, squares, sums)
            if step in kept:
                mean += self._weights / np.float32(len(kept))
        return mean

    def _batches(self, part: Any, order: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Slots, factors, labels and weights of batches of rows, which are read a block of batches at a time."""
        several = max(_TOGETHER // size, 1) * size
        for start in range(0, len(order), several):
            shuffled = order[start : start + several]
            rows = np.sort(shuffled)
            batch, labels = part.take(rows)
            values = (*self._inputs(batch), labels, _row_weights(part, rows) / self._mass)
            places = np.searchsorted(rows, shuffled)
            for first in range(0, len(rows), size):
                batch_places = np.sort(places[first : first + size])
                yield tuple(array[batch_places] for array in values)

    def _step(self, values: tuple[np.ndarray, ...], pull: np.ndarray, squares: np.ndarray, sums: np.ndarray) -> None:
        """One step of Adagrad; `sums` is 0 before and after."""
        slots, factors, labels, weights = values
        error = (sigmoid(self._logits(slots, factors)) - labels) * weights
        flat = slots.reshape(-1)
        # A weight that appears twice is updated twice in the same way, from the sum of both gradients.
        gradient = (error[:, None] * factors).reshape(-1).astype(np.float32) + pull[flat] * self._weights[flat]
        np.add.at(sums, flat, gradient)
        gradient = sums[flat]
        sums[flat] = 0.0
        squares[flat] = seen = squares[flat] + gradient * gradient
        self._weights[flat] -= _RATE * gradient / np.sqrt(seen)

    def _logits(self, slots: np.ndarray, factors: np.ndarray) -> np.ndarray:
        return np.einsum("bp,bp->b", self._weights[slots], factors)  # type: ignore[no-any-return]

    def _inputs(self, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        """Places of the weights that the rows of a packed batch have, and the factor of each: (B, P) both."""
        n = len(next(iter(batch.values())))
        slots, factors = [np.ones((n, 1), np.int64)], [np.ones((n, 1), np.float32)]
        if self._plain:
            values = (batch["dense"][:, self._plain] - self._mean[self._plain]) / self._scale[self._plain]
            slots.append(np.broadcast_to(np.arange(2, self._bins), values.shape))
            factors.append(np.clip(values, -_FARTHEST, _FARTHEST))
        if self._encoded:
            values = batch["dense"][:, self._encoded]
            first = self._bins + np.arange(len(self._encoded)) * (_BINS + 2)
            missing = values < ENCODED_MISSING + 0.5
            place = np.clip((values + 1) * (_BINS / 2), 0, _BINS)
            low = np.minimum(place.astype(np.int64), _BINS - 1)
            above = np.where(missing, 0.0, place - low)
            low = first + np.where(missing, _BINS + 1, low)
            slots += [low, np.where(missing, 0, low + 1)]
            factors += [1 - above, above]
        if self.schema.categorical:
            places, weights = self._ids(batch)
            slots.append(places)
            factors.append(weights)
        return np.concatenate(slots, axis=1), np.concatenate(factors, axis=1, dtype=np.float32)

    def _ids(self, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        """Weights of a packed batch's ids, and their factors: (B, W) each."""
        ids = fold(batch["sparse"])
        real = ids != PADDING
        if any(column.hashed for column in self.schema.categorical):
            ids = ids % self._sizes  # slow
        rows = self._starts + ids & _TABLE_ROWS - 1
        factors = np.where(real, batch.get("weights", np.float32(1)), np.float32(0))
        for column, start in zip(self.schema.categorical, self.schema.offsets, strict=True):
            if column.combiner != "sum" and (column.hotness > 1 or self.schema.weighted):
                own = factors[:, start : start + column.hotness]
                norm = own.sum(1) if column.combiner == "mean" else np.sqrt((own * own).sum(1))
                own /= np.where(norm == 0, 1, norm)[:, None]
        return np.where(real, self._tables + rows, 0), factors


def _row_weights(part: Any, rows: np.ndarray) -> np.ndarray:
    weights = part.sample_weights(rows)
    return np.ones(len(rows), np.float32) if weights is None else weights


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, float64; beyond 30 from 0 they are those of 30."""
    return 1 / (1 + np.exp(-np.clip(logits, -30, 30).astype(np.float64)))  # type: ignore[no-any-return]
