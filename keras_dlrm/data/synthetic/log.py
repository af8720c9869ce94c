"""`SyntheticClickLog`, the base of every synthetic log: batches, and a processed directory."""

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from keras_dlrm.data.packed.filling import cut, joined, refilled
from keras_dlrm.data.packed.format import SPLITS
from keras_dlrm.data.packed.packed import ClickLog
from keras_dlrm.data.packed.packed import open as open_log
from keras_dlrm.data.packed.split import Batch
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.data.synthetic.probabilities import best, expected_auc, expected_logloss
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.crosses import fill
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.support.arguments import integer

# Rows are drawn in blocks of this size, whatever the batch size.
BLOCK = 8192
Progress = Callable[[int, int | None, str], None]


class Block(NamedTuple):
    """`BLOCK` consecutive rows of a part: the packed batch, the labels (B,) and the true click probabilities (B,)."""

    batch: Batch
    label: np.ndarray
    truth: np.ndarray


class SyntheticClickLog:
    """A click log that is drawn, not read. Base of all that `kd.data.synthetic` has; it draws nothing itself.

    A part is an endless sequence of rows. Row r of it depends on the log's settings, the part's name and r: not on the
    batch size, on what was drawn before or on the backend.

    Args:
        schema: Fitted schema; with `weighted=True`, weights are 1.
        seed: Seed of everything that is drawn.

    Raises:
        ValueError: the schema is not fitted, or the seed is negative.
    """

    kind = "synthetic"

    def __init__(self, schema: Schema, seed: int = 0) -> None:
        schema.require_fitted()
        schema.require_one_label(type(self).__name__)
        self.schema = schema
        self.seed = integer(type(self).__name__, "seed", seed, 0)

    # -- what a kind of log has to say -------------------------------------------------------------------------------

    def _blocks(self, part: str) -> Iterator[Block]:
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        raise NotImplementedError

    @cached_property
    def _population(self) -> np.ndarray:
        """True probabilities of many rows."""
        return np.concatenate([block.truth for block in self._until(32 * BLOCK, "train")])

    def _dense(self, random: np.random.Generator, rows: int) -> np.ndarray:
        return random.standard_normal((rows, self.schema.n_dense), dtype=np.float32)

    def _ids(self, random: np.random.Generator, column: Categorical, shape: tuple[int, int]) -> np.ndarray:
        raise NotImplementedError

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
        size = integer("batches", "batch_size", batch_size)
        if n_batches is not None and rows is not None:
            raise ValueError("batches: give n_batches or rows, not both.")
        end = None if rows is None else integer("batches", "rows", rows, 0)
        if n_batches is not None:
            end = integer("batches", "n_batches", n_batches, 0) * size
        return ((block.batch, block.label) for block in refilled(self._until(end, part), size))

    def _until(self, end: int | None, part: str) -> Iterator[Block]:
        """The part's rows up to `end`, in blocks."""
        blocks = self._blocks(part)
        if end is None:
            yield from blocks
        for start in range(0, end or 0, BLOCK):
            yield cut(next(blocks), 0, (end or 0) - start)

    def write(
        self, directory: str | os.PathLike[str], rows: Mapping[str, int], overwrite: bool = False,
        progress: Progress | None = None,
    ) -> ClickLog:  # fmt: skip
        """Write parts of the log as the splits of a processed directory.

        Args:
            directory: Directory to write: complete or absent.
            rows: Rows by split, as `{"train": 500_000, "valid": 50_000, "test": 100_000}`.
            overwrite: Whether a processed directory there may be replaced.
            progress: Called as `progress(rows_done, rows_total, split)`.

        Returns:
            The written `ClickLog`. Its `best` tells what the true probabilities reach on the rows of the test split,
            where there is one: `"auc"` and `"logloss"` in expectation over the labels, `"drawn_auc"` and
            `"drawn_logloss"` on the labels that were drawn. A model's distance to the latter is not blurred by the luck
            of the draw (about 0.0015 in AUC for 100,000 rows). `manifest["best_by_split"]` has the same for each split.
        """
        for split, count in rows.items():
            if split not in SPLITS:
                raise ValueError(f"write: split {split!r} in rows is unknown; the splits are {SPLITS}.")
            integer("write", f"rows[{split!r}]", count, 0)
        by_split: dict[str, dict[str, float | None]] = {}

        def batches(split: str, count: int) -> Iterator[tuple[Batch, np.ndarray]]:
            scored = []
            for block in self._until(count, split):
                scored.append((block.truth, block.label))
                yield block.batch, block.label
            if scored:
                # JSON has no NaN: the AUC of labels that are all equal.
                scores = best(*joined(scored))
                by_split[split] = {name: None if np.isnan(value) else value for name, value in scores.items()}

        with PackedWriter(directory, self.schema, overwrite=overwrite) as writer:
            parts = {split: batches(split, int(count)) for split, count in rows.items()}
            writer.extend(parts, sum(rows.values()), progress)
            if "test" in by_split:
                writer.note("best", by_split["test"])
            writer.note("best_by_split", by_split)
            writer.note(self.kind, self._settings())
        return open_log(directory, verify=False)

    @property
    def best_auc(self) -> float:
        """AUC of the true probabilities, in expectation: no model does better on the population.

        That is 524,288 rows of a `PlantedClickLog`, 262,144 of a `Twin`. Where a log changes over time, they are the first of
        the part `"train"`; `PlantedClickLog.best` tells it for others.
        """
        return expected_auc(self._population)

    @property
    def best_logloss(self) -> float:
        """Log loss of the true probabilities, in expectation, over the same rows as `best_auc`."""
        return expected_logloss(self._population)

    # -- helpers of the kinds ----------------------------------------------------------------------------------------

    def _inputs(self, random: np.random.Generator, rows: int) -> Batch:
        """Packed rows whose columns do not depend on each other; multi-hot ones have 1 … hotness ids."""
        batch: Batch = {}
        if self.schema.dense:
            batch["dense"] = self._dense(random, rows)
        columns = []
        for column in self.schema.categorical:
            ids = self._ids(random, column, (rows, column.hotness))
            if column.hotness > 1:
                ids = np.where(np.arange(column.hotness) < random_lengths(random, rows, column.hotness), ids, PADDING)
            columns.append(ids.astype(np.int32))
        if columns:
            batch["sparse"] = fill(self.schema, np.concatenate(columns, axis=1))
        return self._with_weights(batch)

    def _random(self, name: str, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode()), number])

    def _with_weights(self, batch: Batch) -> Batch:
        if self.schema.weighted:
            batch["weights"] = (batch["sparse"] != PADDING).astype(np.float32)
        return batch


def random_lengths(random: np.random.Generator, rows: int, hotness: int) -> np.ndarray:
    """A number of ids for each row: 1 … hotness, evenly; (rows, 1)."""
    return random.integers(1, hotness + 1, size=(rows, 1))


def zipf_distribution(size: int, exponent: float) -> np.ndarray:
    """Cumulative probabilities of ranks 1 … size, each drawn in proportion to `rank ** -exponent`.

    Example:

    >>> zipf_distribution(2, 1.0)
    array([0.6667, 1.    ])
    """
    mass = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return np.cumsum(mass / mass.sum())


class Popularity:
    """Zipf distributions of ids by table size, and each table's ids by popularity; `random` makes generators by name."""

    def __init__(self, exponent: float, random: Callable[[str], np.random.Generator]) -> None:
        self._exponent, self._random = exponent, random
        self._distributions: dict[int, np.ndarray] = {}
        self._orders: dict[tuple[str, int], np.ndarray] = {}

    def distribution(self, size: int) -> np.ndarray:
        """Cumulative probabilities of the ranks of a table's size."""
        if size not in self._distributions:
            self._distributions[size] = zipf_distribution(size, self._exponent)
        return self._distributions[size]

    def order(self, table: str, size: int) -> np.ndarray:
        """A table's ids, the most popular one first: int32 (size,)."""
        if (table, size) not in self._orders:
            self._orders[table, size] = self._random(f"table {table}").permutation(size).astype(np.int32)
        return self._orders[table, size]

    def by_id(self, table: str, size: int) -> np.ndarray:
        """Probability of each id: float64 (size,)."""
        out = np.empty(size)
        out[self.order(table, size)] = np.diff(self.distribution(size), prepend=0.0)
        return out

    def draw(self, random: np.random.Generator, table: str, size: int, shape: tuple[int, int]) -> np.ndarray:
        """Ids of a table: int32 of a shape."""
        ranks = np.searchsorted(self.distribution(size), random.random(shape), side="right")
        return self.order(table, size)[np.minimum(ranks, size - 1)]
