"""Planted click logs: drawn from known click probabilities, so that the best possible AUC and log loss are known."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from keras_dlrm.data.expectation import best, expected_auc, expected_logloss
from keras_dlrm.data.packed import Batch, ClickLog, check_batch_size
from keras_dlrm.data.packed import open as open_log
from keras_dlrm.data.writer import PackedWriter
from keras_dlrm.schema import PADDING, Categorical, Schema

# Rows of the tables of Criteo's Kaggle log, C1 … C26 (facebookresearch/dlrm, README).
CRITEO_KAGGLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
# Rows are drawn in blocks of this size, whatever the batch size.
BLOCK = 8192
RANK = 2
MAX_PAIRS = 2
# Pairs are made of the smallest tables with at least this many rows: their products can be learned from few rows.
PAIR_ROWS = 8
# An id's effect and its factor shrink by n / (1 + n), n its expected count among this many rows: rare ids carry little
# signal, so that a model comes close to the best with some hundred thousand rows.
EFFECT_ROWS = 1_000
FACTOR_ROWS = 200
# Shares of the logit's variance: linear dense, nonlinear dense, one effect per id, products of pairs of columns.
SHARES = {"linear": 0.48, "nonlinear": 0.04, "ids": 0.42, "pairs": 0.06}


def criteo_shape(scale: float = 1.0) -> Schema:
    """A schema with the shape of Criteo's Kaggle log: 13 dense columns and 26 tables, scaled down.

    Args:
        scale: Factor on the tables' rows; each keeps at least 3.

    Example:

    >>> sum(criteo_shape().table_sizes.values()), criteo_shape(1e-4).table_sizes["C3"]
    (33762577, 1013)
    """
    if not 0.0 < scale:
        raise ValueError(f"criteo_shape: scale={scale} must be positive.")
    return Schema(
        dense=[f"I{i}" for i in range(1, 14)],
        categorical=[Categorical(f"C{i}", max(3, round(n * scale))) for i, n in enumerate(CRITEO_KAGGLE_ROWS, 1)],
    )


class PlantedClickLog:
    """A click log drawn from known click probabilities.

    Dense values are standard normal. Ids are Zipf-distributed over each table, popular and rare ones mixed. The logit
    is a sum of linear and mildly nonlinear functions of the dense values, an effect per id, and low-rank products of
    a few pairs of columns (what dot products and crosses are there to find), scaled so that the best possible AUC and
    the click rate are as asked for. A multi-hot column draws 1 … hotness ids, and its effect is their mean.

    Row r of a part depends on `(schema, seed, part, r)` and the settings, not on the batch size or on the backend.

    Args:
        schema: Fitted schema; with `weighted=True`, weights are 1.
        seed: Seed of the planted effects and of the rows.
        click_rate: Mean click probability.
        target_auc: AUC of the true probabilities, between 0.5 and 1.
        zipf: Exponent of the ids' distribution; 0 is uniform.

    Example:

    >>> log = PlantedClickLog(Schema(dense=["x"], categorical=[Categorical("C1", 20)]), seed=0)
    >>> batch, label = next(log.batches(4, n_batches=1))
    >>> batch["sparse"].shape, log.probabilities(batch).shape
    ((4, 1), (4,))
    >>> bool(abs(log.best_auc - 0.8) < 0.01)
    True
    """

    def __init__(
        self,
        schema: Schema,
        seed: int = 0,
        click_rate: float = 0.25,
        target_auc: float = 0.80,
        zipf: float = 1.05,
    ) -> None:
        schema.require_fitted()
        for name, value, low, high in (("click_rate", click_rate, 0.0, 1.0), ("target_auc", target_auc, 0.5, 0.99)):
            if not low < value < high:
                raise ValueError(f"PlantedClickLog: {name}={value} must lie between {low} and {high}.")
        if zipf < 0.0:
            raise ValueError(f"PlantedClickLog: zipf={zipf} must be 0 or more.")
        self.schema = schema
        self.seed = int(seed)
        self.click_rate = click_rate
        self.target_auc = target_auc
        self.zipf = zipf
        self._cdf: dict[int, np.ndarray] = {}
        self._ranks: dict[str, np.ndarray] = {}
        self._last: tuple[tuple[str, int], tuple[Batch, np.ndarray]] | None = None
        self._plant()

    # -- rows --------------------------------------------------------------------------------------------------------

    def batches(
        self, batch_size: int, n_batches: int | None = None, rows: int | None = None, part: str = "train"
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches of a part of the log, from its first row on.

        Args:
            batch_size: Rows B of a batch.
            n_batches: How many batches; without it and without `rows`, they never end.
            rows: Or how many rows; the last batch has what is left.
            part: Any name; parts are independent draws.

        Returns:
            Iterator of `(batch, label)`: the packed batch and float32 (B,) of 0 and 1.
        """
        size = check_batch_size(batch_size)
        if n_batches is not None and rows is not None:
            raise ValueError("batches: give n_batches or rows, not both.")
        end = n_batches * size if n_batches is not None else rows
        return self._batches(size, end, part)

    def _batches(self, size: int, end: int | None, part: str) -> Iterator[tuple[Batch, np.ndarray]]:
        start = 0
        while end is None or start < end:
            stop = start + size if end is None else min(start + size, end)
            pieces = []
            for block in range(start // BLOCK, (stop - 1) // BLOCK + 1):
                batch, label = self._block(part, block)
                cut = slice(max(start - block * BLOCK, 0), min(stop - block * BLOCK, BLOCK))
                pieces.append(({k: v[cut] for k, v in batch.items()}, label[cut]))
            yield (
                {k: np.concatenate([p[0][k] for p in pieces]) for k in self.schema.input_names},
                np.concatenate([p[1] for p in pieces]),
            )
            start = stop

    def _block(self, part: str, number: int) -> tuple[Batch, np.ndarray]:
        if self._last is None or self._last[0] != (part, number):
            random = self._random(part, number)
            batch = self._inputs(random, BLOCK)
            label = (random.random(BLOCK) < self.probabilities(batch)).astype(np.float32)
            self._last = ((part, number), (batch, label))
        return self._last[1]

    def _inputs(self, random: np.random.Generator, rows: int) -> Batch:
        batch: Batch = {}
        if self.schema.dense:
            batch["dense"] = random.standard_normal((rows, self.schema.n_dense), dtype=np.float32)
        if self.schema.categorical:
            sparse = np.full((rows, self.schema.width), PADDING, np.int32)
            for column, offset in zip(self.schema.categorical, self.schema.offsets, strict=True):
                size, hot = int(column.vocabulary_size or 0), column.hotness
                ranks = np.searchsorted(self._distribution(size), random.random((rows, hot)), side="right")
                ids = self._permutation(column.table_name, size)[np.minimum(ranks, size - 1)]
                if hot > 1:
                    lengths = random.integers(1, hot + 1, size=(rows, 1))
                    ids = np.where(np.arange(hot) < lengths, ids, PADDING)
                sparse[:, offset : offset + hot] = ids
            batch["sparse"] = sparse
        if self.schema.weighted:
            batch["weights"] = (batch["sparse"] != PADDING).astype(np.float32)
        return batch

    def _distribution(self, size: int) -> np.ndarray:
        if size not in self._cdf:
            mass = np.arange(1, size + 1, dtype=np.float64) ** -self.zipf
            self._cdf[size] = np.cumsum(mass / mass.sum())
        return self._cdf[size]

    def _permutation(self, table: str, size: int) -> np.ndarray:
        if table not in self._ranks:
            self._ranks[table] = self._random(f"table {table}").permutation(size).astype(np.int32)
        return self._ranks[table]

    def _random(self, name: str, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode()), number])

    # -- probabilities -----------------------------------------------------------------------------------------------

    def _plant(self) -> None:
        schema = self.schema
        random = self._random("planted effects")
        self._linear = random.standard_normal(schema.n_dense)
        self._bends = random.standard_normal((2, schema.n_dense))
        sizes = schema.table_sizes
        self._effects = {
            t: random.standard_normal(n, dtype=np.float32) * self._shrink(t, n, EFFECT_ROWS) for t, n in sizes.items()
        }
        rows = [sizes[c.table_name] for c in schema.categorical]
        columns = sorted(range(len(rows)), key=lambda i: (rows[i] < PAIR_ROWS, rows[i]))
        self._pairs = list(zip(columns[0::2], columns[1::2], strict=False))[:MAX_PAIRS]
        tables = sorted({schema.categorical[i].table_name for pair in self._pairs for i in pair})
        self._factors = {
            t: random.standard_normal((sizes[t], RANK), dtype=np.float32)
            * self._shrink(t, sizes[t], FACTOR_ROWS)[:, None]
            for t in tables
        }

    def _shrink(self, table: str, size: int, rows: int) -> np.ndarray:
        expected = rows * np.diff(self._distribution(size), prepend=0.0)
        out = np.empty(size, np.float32)
        out[self._permutation(table, size)] = expected / (1.0 + expected)
        return out

    def _components(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        if self.schema.dense:
            x = np.asarray(batch["dense"], np.float64)
            out["linear"] = x @ self._linear
            out["nonlinear"] = np.tanh(2.0 * x) @ self._bends[0] + np.maximum(np.abs(x) - 1.0, 0.0) @ self._bends[1]
        if self.schema.categorical:
            columns = range(len(self.schema.categorical))
            out["ids"] = np.sum([self._pool(batch, i, self._effects)[:, 0] for i in columns], axis=0)
        if self._pairs:
            pooled = {i: self._pool(batch, i, self._factors) for pair in self._pairs for i in pair}
            out["pairs"] = np.sum([(pooled[a] * pooled[b]).sum(1) for a, b in self._pairs], 0)
        return out

    def _pool(self, batch: Mapping[str, np.ndarray], index: int, latents: Mapping[str, np.ndarray]) -> np.ndarray:
        """Mean of the latents of a column's ids: float64 (B, k), 0 where all is padding."""
        column, offset = self.schema.categorical[index], self.schema.offsets[index]
        ids = np.asarray(batch["sparse"])[:, offset : offset + column.hotness]
        table = latents[column.table_name]
        table = table[:, None] if table.ndim == 1 else table
        valid = ids != PADDING
        values = table[np.where(valid, ids, 0)].astype(np.float64) * valid[:, :, None]
        return values.sum(1) / np.maximum(valid.sum(1), 1)[:, None]

    @cached_property
    def _calibration(self) -> tuple[dict[str, tuple[float, float]], float, float]:
        """`{component: (mean, weight)}`, the logit's scale and its bias, all from one sample."""
        parts = self._components(self._inputs(self._random("calibration"), 2**15))
        total = sum(SHARES[name] for name in parts)
        shape = {}
        for name, values in parts.items():
            weight = np.sqrt(SHARES[name] / total) / values.std() if values.std() > 1e-12 else 0.0
            shape[name] = (float(values.mean()), float(weight))
        logit = np.sum([(values - shape[name][0]) * shape[name][1] for name, values in parts.items()], axis=0)
        low, high = 0.0, 32.0
        for _ in range(24):
            scale = (low + high) / 2.0
            bias = self._bias(scale * logit)
            auc = expected_auc(_sigmoid(scale * logit + bias))
            low, high = (scale, high) if auc < self.target_auc else (low, scale)
        return shape, scale, self._bias(scale * logit)

    def _bias(self, logit: np.ndarray) -> float:
        low, high = -64.0, 64.0
        for _ in range(32):
            bias = (low + high) / 2.0
            low, high = (bias, high) if _sigmoid(logit + bias).mean() < self.click_rate else (low, bias)
        return bias

    def probabilities(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The true click probabilities: float64 (B,).

        Args:
            batch: Packed batch of B rows.
        """
        shape, scale, bias = self._calibration
        parts = self._components(batch)
        return _sigmoid(bias + scale * np.sum([(v - shape[n][0]) * shape[n][1] for n, v in parts.items()], axis=0))

    @cached_property
    def _population(self) -> np.ndarray:
        blocks = [self._inputs(self._random("population", i), BLOCK) for i in range(64)]
        return np.concatenate([self.probabilities(b) for b in blocks])

    @property
    def best_auc(self) -> float:
        """AUC of the true probabilities, in expectation, over 524,288 rows: no model does better on the population."""
        return expected_auc(self._population)

    @property
    def best_logloss(self) -> float:
        """Log loss of the true probabilities, in expectation, over 524,288 rows."""
        return expected_logloss(self._population)

    def write(self, directory: str | os.PathLike[str], rows: Mapping[str, int], overwrite: bool = False) -> ClickLog:
        """Write parts of the log as the splits of a processed directory.

        Args:
            directory: Directory to write: complete or absent.
            rows: Rows by split, as `{"train": 500_000, "valid": 50_000, "test": 100_000}`.
            overwrite: Whether a processed directory there may be replaced.

        Returns:
            The written `ClickLog`. Its `best` tells what the true probabilities reach on the rows of the test split,
            where there is one: `"auc"` and `"logloss"` in expectation over the labels, `"drawn_auc"` and
            `"drawn_logloss"` on the labels that were drawn. A model's distance to the latter is not blurred by the luck
            of the draw (about 0.0015 in AUC for 100,000 rows).
        """
        with PackedWriter(directory, self.schema, overwrite=overwrite) as writer:
            for split, count in rows.items():
                writer.begin(split)
                truth, labels = [np.empty(0)], [np.empty(0)]
                for batch, label in self.batches(BLOCK, rows=count, part=split):
                    writer.append(split, batch, label)
                    truth.append(self.probabilities(batch))
                    labels.append(label)
                if split == "test" and count:
                    writer.note("best", best(np.concatenate(truth), np.concatenate(labels)))
            settings = ("seed", "click_rate", "target_auc", "zipf")
            writer.note("planted", {name: getattr(self, name) for name in settings})
        return open_log(directory)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
