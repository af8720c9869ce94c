"""`Twin`: a synthetic log with the statistics of a private one."""

import zlib
from collections.abc import Iterator
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np

from keras_dlrm.data.packed.split import Batch
from keras_dlrm.data.synthetic.log import BLOCK, Block, Popularity, SyntheticClickLog
from keras_dlrm.data.synthetic.mixing import permuted
from keras_dlrm.data.synthetic.probabilities import normal_share, scale_and_bias, sigmoid
from keras_dlrm.data.synthetic.trace import Trace
from keras_dlrm.data.synthetic.twin.measure import log_odds_shifts
from keras_dlrm.data.synthetic.twin.statistics import Statistics
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.crosses import fill
from keras_dlrm.schema.schema import Categorical
from keras_dlrm.support.arguments import choice

SAMPLE = 8


class Twin(SyntheticClickLog):
    """A log of the same shape, skew and click rate as a private one, drawn from its `Statistics` alone.

    Alike are the click rate; each sparse column's frequencies, number of different ids in n rows, lengths and missing
    rate; each dense column's distribution; correlations between columns (through a Gaussian copula, which ties popular
    ids to large values); and how well a column's popularity and dense values tell clicks. Which ids are popular is
    random. What a log has beyond that is not there: effects of single ids, interactions, change over time.

    Ids are dealt, not rolled: within a bucket of equally popular ids, each comes as often as it did in the private log
    before any comes more often. So as many rows hold as many different ids.

    Args:
        statistics: What `measure` found.
        seed: Seed of the rows.
        ids: What is kept of the ids' order. `"frequency"`: how often each comes. `"locality"`: their stack distances
            instead, by a `Trace`; clicks and other columns then do not depend on them, for no id stays popular.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> import keras_dlrm as kd
    >>> from keras_dlrm.data.synthetic import PlantedClickLog
    >>> from keras_dlrm.data.synthetic import measure
    >>> schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("C1", 20)])
    >>> twin = Twin(measure(PlantedClickLog(schema), rows=5000))
    >>> again = measure(twin, rows=5000)
    >>> again.sparse["C1"].distinct, bool(abs(again.click_rate - twin.statistics.click_rate) < 0.02)
    (20, True)
    """

    kind = "twin"

    def __init__(self, statistics: Statistics, seed: int = 0, ids: str = "frequency") -> None:
        if not isinstance(statistics, Statistics):
            raise ValueError(f"Twin: statistics={statistics!r} must be a Statistics: see kd.data.synthetic.measure.")
        super().__init__(statistics.schema, seed)
        choice("Twin", "ids", ids, ("frequency", "locality"))
        self.statistics = statistics
        self.ids = ids
        self._popularity = Popularity(0.0, self._random)
        correlation = np.array(statistics.correlation, np.float64)
        values, vectors = np.linalg.eigh((correlation + correlation.T) / 2.0)
        factor = vectors * np.sqrt(np.maximum(values, 0.0))
        # Rounding may leave a matrix that is no correlation; its nearest one has rows of length 1.
        self._factor = factor / np.maximum(np.sqrt((factor**2).sum(1, keepdims=True)), 1e-12)

    def _blocks(self, part: str) -> Iterator[Block]:
        scale, bias = self._calibration
        for random, (batch, score) in self._drawn(part):
            truth = sigmoid(scale * score + bias)
            yield Block(batch, (random.random(BLOCK) < truth).astype(np.float32), truth)

    def _drawn(self, part: str) -> Iterator[tuple[np.random.Generator, tuple[Batch, np.ndarray]]]:
        """Blocks without labels: the batch, and the sum of its columns' log odds."""
        columns = self.schema.categorical
        dealt = [np.zeros(len(self.statistics.sparse[c.name].ids), np.int64) for c in columns]
        traces = [self._trace(part, c) for c in columns] if self.ids == "locality" else []
        for number in count():
            random = self._random(f"rows {part}", number)
            shares = normal_share(random.standard_normal((BLOCK, len(self._factor))) @ self._factor.T)
            score = np.zeros(BLOCK)
            batch: Batch = {}
            if self.schema.dense:
                batch["dense"] = np.empty((BLOCK, self.schema.n_dense), np.float32)
                for i, name in enumerate(self.schema.dense_names):
                    column_statistics = self.statistics.dense[name]
                    batch["dense"][:, i], group = column_statistics.locate(shares[:, i])
                    score += log_odds_shifts(column_statistics.click_rate, self.statistics.click_rate)[group]
            if columns:
                batch["sparse"] = np.full((BLOCK, self.schema.width), PADDING, np.int32)
            for i, (column, offset) in enumerate(zip(columns, self.schema.offsets, strict=True)):
                present = self._present(random, column)
                ids = batch["sparse"][:, offset : offset + column.hotness]
                if traces:
                    ids[present] = traces[i].draw(int(present.sum()))
                    continue
                share = random.random(present.shape)
                share[:, 0] = shares[:, self.schema.n_dense + i]
                bucket = self._bucket(column, share)
                ids[present] = self._deal(part, column, bucket[present], dealt[i])
                shifts = log_odds_shifts(self.statistics.sparse[column.name].click_rate, self.statistics.click_rate)
                if len(shifts):
                    score += np.where(present, shifts[bucket], 0.0).sum(1) / np.maximum(present.sum(1), 1)
            if columns:
                fill(self.schema, batch["sparse"])
            yield random, (self._with_weights(batch), score)

    def _present(self, random: np.random.Generator, column: Categorical) -> np.ndarray:
        sparse = self.statistics.sparse[column.name]
        steps = np.cumsum(sparse.lengths)
        lengths = np.searchsorted(steps / steps[-1], random.random(BLOCK), side="right")
        if not sparse.ids:
            lengths[:] = 0
        return np.arange(column.hotness) < np.minimum(lengths, column.hotness)[:, None]

    def _bucket(self, column: Categorical, share: np.ndarray) -> np.ndarray:
        references = np.asarray(self.statistics.sparse[column.name].references, np.float64)
        steps = np.cumsum(references) / max(references.sum(), 1.0)
        return np.minimum(np.searchsorted(steps, share, side="right"), max(len(steps) - 1, 0))

    def _deal(self, part: str, column: Categorical, bucket: np.ndarray, dealt: np.ndarray) -> np.ndarray:
        """Ids of given buckets; `dealt` counts how many each bucket has given so far."""
        sparse = self.statistics.sparse[column.name]
        if not len(bucket):
            return np.empty(0, np.int32)
        # The how-manieth of its bucket each is.
        order = np.argsort(bucket, kind="stable")
        counts = np.bincount(bucket, minlength=len(dealt))
        turn = np.empty(len(bucket), np.int64)
        turn[order] = np.arange(len(bucket)) - np.repeat(np.cumsum(counts) - counts, counts)
        turn += dealt[bucket]
        dealt += counts
        ids, deck = np.asarray(sparse.ids)[bucket], np.asarray(sparse.references)[bucket]
        rank = (np.cumsum(sparse.ids) - sparse.ids)[bucket]
        several = ids > 1
        round_, card = turn[several] // deck[several], turn[several] % deck[several]
        key = zlib.crc32(f"{part} {column.name}".encode()) + (self.seed << 32)
        card = permuted(card, deck[several], key, round_ * len(dealt) + bucket[several])
        rank[several] += card * ids[several] // deck[several]
        return self._popularity.order(column.table_name, int(column.vocabulary_size or 0))[rank]

    def _trace(self, part: str, column: Categorical) -> Trace:
        key = [self.seed, zlib.crc32(f"trace {part} {column.name}".encode())]
        sparse = self.statistics.sparse[column.name]
        # No more ids than the log has.
        return Trace(sparse.locality, max(sparse.distinct, 1), key)

    @cached_property
    def _calibration(self) -> tuple[float, float]:
        rate = self.statistics.click_rate
        if not 0.0 < rate < 1.0:
            return 0.0, float(np.inf if rate else -np.inf)
        source = self._drawn("calibration")
        score = np.concatenate([next(source)[1][1] for _ in range(SAMPLE)])
        if score.std() < 1e-9:
            return 0.0, float(np.log(rate) - np.log1p(-rate))
        return scale_and_bias(score, rate, self.statistics.auc)

    def _settings(self) -> dict[str, Any]:
        return {"seed": self.seed, "ids": self.ids, "measured_rows": self.statistics.rows}
