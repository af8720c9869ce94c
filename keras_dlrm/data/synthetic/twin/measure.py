"""`measure`: the statistics of a click log."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_dlrm.data.packed.split import Batch, Split
from keras_dlrm.data.synthetic.log import Progress, SyntheticClickLog
from keras_dlrm.data.synthetic.probabilities import drawn_auc, normal_score
from keras_dlrm.data.synthetic.stack_profile import StackProfile
from keras_dlrm.data.synthetic.twin.statistics import DenseStatistics, SparseStatistics, Statistics
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.hashing import fold
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.support.arguments import integer

ROWS = 65536
# Dense values and correlations are taken from so many rows, spread evenly over the log.
SAMPLE = 2**18
# Stack distances are taken from so many references of each column, from the log's beginning on.
REFERENCES = 2**17
# Dense columns are told in so many groups at most, and values of at least this share of the rows as they are.
GROUPS = 100
ATOM = 0.01
# Ids that came fewer times are told apart by how often they came; the others by rank.
EQUAL_COUNTS = 32


def measure(
    source: Split | SyntheticClickLog, rows: int | None = None, part: str = "train", threshold: int = 20,
    progress: Progress | None = None,
) -> Statistics:  # fmt: skip
    """The statistics of a split: enough to draw a log of the same shape from, and nothing of a single row.

    No id or key is kept, and every figure is a count, a share or a mean over at least `threshold` rows or references.
    A dense value is told as it is where at least 1% of the rows (and `threshold` of them) share it; the others are
    told as means of groups of neighbors. Click rates of small groups are drawn towards the log's. The schema is told:
    names of columns and sizes of vocabularies. This protects against reading a person's values off the file; it is not
    differential privacy: who knows all other rows may work out the last one.

    Memory is bounded by the vocabularies (16 bytes for each row of each sparse column) and the sample (2¹⁸ rows).

    Args:
        source: The split; or a synthetic log, with `rows`.
        rows: How many rows from its beginning on; all of a split by default.
        part: Part of a synthetic log.
        threshold: The least number of rows or references behind every figure.
        progress: Called as `progress(rows_done, rows_total, stage)`.

    Returns:
        The `Statistics`.

    Raises:
        ValueError: fewer rows than `threshold`, or a bad argument.

    Example:

    >>> import keras_dlrm as kd
    >>> schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("C1", 20)])
    >>> statistics = measure(kd.data.synthetic.PlantedClickLog(schema), rows=2000)
    >>> statistics.rows, statistics.sparse["C1"].distinct, len(statistics.dense["x"].values)
    (2000, 20, 100)
    """
    threshold = integer("measure", "threshold", threshold)
    schema = source.schema
    schema.require_one_label("measure")
    if isinstance(source, SyntheticClickLog):
        if rows is None:
            raise ValueError("measure: a synthetic log has no end; give rows.")
        total = integer("measure", "rows", rows)
        batches = source.batches(ROWS, rows=total, part=part)
    else:
        total = len(source) if rows is None else min(integer("measure", "rows", rows), len(source))
        batches = _head(source.batches(ROWS), total)
    if total < threshold:
        raise ValueError(f"measure: {total} rows are fewer than threshold={threshold}; they would tell of single rows.")
    gathered = _Gathered(schema, total)
    done = 0
    for batch, label in batches:
        gathered.add(batch, label)
        done += len(label)
        if progress is not None:
            progress(done, total, "count")
    return gathered.statistics(threshold, progress)


class _Gathered:
    """Counts of the whole log, and a sample of its rows."""

    def __init__(self, schema: Schema, total: int) -> None:
        self.schema, self.total = schema, total
        self.clicks, self.seen = 0.0, 0
        self.stride = -(-total // SAMPLE)
        self.sample: list[tuple[Batch, np.ndarray]] = []
        sizes = [int(c.vocabulary_size or 0) for c in schema.categorical]
        self.counts = [np.zeros(size, np.int64) for size in sizes]
        self.clicked = [np.zeros(size) for size in sizes]
        self.lengths = [np.zeros(c.hotness + 1, np.int64) for c in schema.categorical]
        self.first: list[list[np.ndarray]] = [[] for _ in sizes]

    def add(self, batch: Batch, label: np.ndarray) -> None:
        self.clicks += float(label.sum())
        for i, column in enumerate(self.schema.categorical):
            ids = self.ids(batch, i)
            valid = ids != PADDING
            flat, size = ids[valid], len(self.counts[i])
            self.counts[i] += np.bincount(flat, minlength=size)
            self.clicked[i] += np.bincount(flat, np.repeat(label, column.hotness).reshape(ids.shape)[valid], size)
            self.lengths[i] += np.bincount(valid.sum(1), minlength=column.hotness + 1)
            if sum(map(len, self.first[i])) < REFERENCES:
                self.first[i].append(flat)
        keep = slice(-self.seen % self.stride, None, self.stride)
        self.sample.append(({k: np.array(v[keep]) for k, v in batch.items()}, np.array(label[keep])))
        self.seen += len(label)

    def ids(self, batch: Batch, index: int) -> np.ndarray:
        """Ids of a column; unbounded ones are brought into the table's rows, a bag's ids to its front."""
        column, offset = self.schema.categorical[index], self.schema.offsets[index]
        ids = np.asarray(batch["sparse"])[:, offset : offset + column.hotness]
        return np.where(ids == PADDING, PADDING, fold(ids) % int(column.vocabulary_size or 1)) if column.hashed else ids

    def statistics(self, threshold: int, progress: Progress | None) -> Statistics:
        rate = self.clicks / self.total
        batch = {k: np.concatenate([b[k] for b, _ in self.sample]) for k in self.schema.input_names}
        label = np.concatenate([label for _, label in self.sample])
        scores, normal = np.zeros(len(label)), []
        dense, sparse = {}, {}
        for i, name in enumerate(self.schema.dense_names):
            values = batch["dense"][:, i].astype(np.float64)
            dense[name], group = _dense(values, label, rate, threshold)
            scores += log_odds_shifts(dense[name].click_rate, rate)[group]
            # Ranks in [0, 1], equal values in the middle of theirs.
            ordered = np.sort(values)
            ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
            normal.append(normal_score(ranks / (2.0 * len(values))))
        for i, column in enumerate(self.schema.categorical):
            sparse[column.name], bucket, place = self._sparse(i, column, rate, threshold)
            ids = self.ids(batch, i)
            valid = ids != PADDING
            known = np.where(valid, ids, 0)
            shifts = log_odds_shifts(sparse[column.name].click_rate, rate)
            if len(shifts):
                scores += np.where(valid, shifts[bucket[known]], 0.0).sum(1) / np.maximum(valid.sum(1), 1)
            first = np.take_along_axis(known, valid.argmax(1)[:, None], axis=1)[:, 0]
            normal.append(normal_score(np.where(valid.any(1), place[first], 0.5)))
            if progress is not None:
                progress(self.total, self.total, f"profile of {column.name}")
        auc = drawn_auc(scores, label)
        auc = 0.5 if np.isnan(auc) else round(max(auc, 0.5), 4)
        correlation = _correlation(np.array(normal)).round(3).tolist()
        return Statistics(self.schema, self.total, threshold, round(rate, 6), auc, sparse, dense, correlation)

    def _sparse(
        self, index: int, column: Categorical, rate: float, threshold: int
    ) -> tuple[SparseStatistics, np.ndarray, np.ndarray]:
        """The column's statistics; and by id its bucket, and its place by popularity in [0, 1]."""
        counts = self.counts[index]
        order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        edges = _buckets(counts[order], threshold)
        starts, order = edges[:-1], order[: edges[-1]]
        falling = counts[order]
        references = np.add.reduceat(falling, starts) if len(order) else np.empty(0, np.int64)
        clicked = np.add.reduceat(self.clicked[index][order], starts) if len(order) else np.empty(0)
        bucket = np.zeros(len(counts), np.int64)
        bucket[order] = np.repeat(np.arange(len(starts)), np.diff(edges))
        place = np.ones(len(counts))
        place[order] = (np.cumsum(falling) - falling / 2.0) / max(falling.sum(), 1)
        first = np.concatenate([*self.first[index], np.empty(0, np.int64)])[:REFERENCES]
        profile = StackProfile([0, 1], [0.0], 1.0) if len(first) < threshold else StackProfile.measured(first)
        statistics = SparseStatistics(
            lengths=_shares(self.lengths[index], threshold),
            ids=np.diff(edges).tolist(),
            references=references.astype(np.int64).tolist(),
            click_rate=((clicked + threshold * rate) / (references + threshold)).round(4).tolist(),
            locality=_coarse(profile, len(first), threshold),
        )
        return statistics, bucket, place


def _head(batches: Iterator[tuple[Any, ...]], rows: int) -> Iterator[tuple[Batch, np.ndarray]]:
    for batch, label, *_ in batches:
        if rows <= 0:
            return
        yield {k: v[:rows] for k, v in batch.items()}, label[:rows]
        rows -= len(label)


def _shares(counts: np.ndarray, threshold: int) -> list[float]:
    """Shares of the rows; counts below the threshold are told as none."""
    kept = np.where(counts >= threshold, counts, 0)
    if not kept.any():
        # Each length has too few rows: the most frequent one stands for all.
        kept[counts.argmax()] = counts.sum()
    return (kept / kept.sum()).round(6).tolist()


def _buckets(falling: np.ndarray, threshold: int) -> np.ndarray:
    """Edges of buckets of ranks: even in the logarithm of the rank, and by equal counts where those are small."""
    size = len(falling)
    if not size or falling.sum() < threshold:
        # So few references are told as none.
        return np.zeros(1, np.int64)
    steps = np.unique(np.concatenate([np.arange(16), (16 * 2 ** (np.arange(8 * 28) / 8)).astype(np.int64)]))
    many = int((falling >= EQUAL_COUNTS).sum())
    changes = np.flatnonzero(np.diff(falling)) + 1
    edges = np.unique(np.concatenate([[0, many], steps[steps < many], changes[changes > many]]))
    references = np.add.reduceat(falling, edges[edges < size])
    kept, sum_ = [0], 0
    for edge, count in zip([*edges[1:][edges[1:] < size], size], references, strict=True):
        sum_ += int(count)
        if sum_ >= threshold:
            kept.append(int(edge))
            sum_ = 0
    if kept[-1] != size:
        # What is left at the end joins the bucket before it.
        kept[-1 if len(kept) > 1 else len(kept) :] = [size]
    return np.array(kept, np.int64)


def _coarse(profile: StackProfile, references: int, threshold: int) -> StackProfile:
    """Buckets joined until each holds enough references."""
    edges, weights, sum_ = [int(profile.edges[0])], [], 0.0
    for edge, weight in zip(profile.edges[1:], profile.weights, strict=True):
        sum_ += float(weight)
        if sum_ * references >= threshold - 0.5:
            edges.append(int(edge))
            weights.append(sum_)
            sum_ = 0.0
    if not weights:
        return StackProfile([0, 1], [0.0], 1.0)
    if sum_ > 0.0:
        edges[-1] = int(profile.edges[-1])
        weights[-1] += sum_
    return StackProfile(edges, np.round(weights, 6), round(profile.cold, 6))


def _dense(values: np.ndarray, label: np.ndarray, rate: float, threshold: int) -> tuple[DenseStatistics, np.ndarray]:
    """The column's statistics, and the group of each row."""
    n = len(values)
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    common = counts >= max(threshold, ATOM * n)
    rest = np.flatnonzero(~common[inverse])
    rest = rest[np.argsort(values[rest], kind="stable")]
    pieces = min(GROUPS, len(rest) // threshold)
    means, exact = distinct[common].tolist(), [True] * int(common.sum())
    numbers = np.full(len(distinct), -1)
    numbers[common] = np.arange(len(means))
    group = numbers[inverse]
    for rows in np.array_split(rest, pieces) if pieces else []:
        group[rows] = len(means)
        means.append(float(values[rows].mean()))
        exact.append(False)
    if not means:
        # Fewer rows than two groups need: one mean.
        means, exact = [float(values.mean())], [False]
        group[:] = 0
    # Rows too few for a group of their own count with the nearest value.
    lost = group < 0
    group[lost] = np.abs(values[lost][:, None] - np.array(means)).argmin(1)
    order = np.argsort(means, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    group = rank[group]
    sizes = np.bincount(group, minlength=len(means))
    clicks = np.bincount(group, label, len(means))
    return DenseStatistics(
        values=[float(np.float32(means[i])) for i in order],
        shares=(sizes / n).tolist(),
        exact=[exact[i] for i in order],
        click_rate=((clicks + threshold * rate) / (sizes + threshold)).round(4).tolist(),
    ), group


def log_odds_shifts(click_rates: list[float], rate: float) -> np.ndarray:
    """Log odds of groups, alongside those of the log.

    Example:

    >>> log_odds_shifts([0.5, 0.2], 0.5).round(3).tolist()
    [0.0, -1.386]
    """

    def log_odds(p: Any) -> np.ndarray:
        p = np.clip(p, 1e-4, 1.0 - 1e-4)
        return np.log(p) - np.log1p(-p)

    return log_odds(np.array(click_rates, np.float64)) - log_odds(rate)


def _correlation(normal: np.ndarray) -> np.ndarray:
    """Correlations between rows; those of a row without variance are 0."""
    centered = normal - normal.mean(1, keepdims=True)
    length = np.sqrt((centered**2).sum(1))
    unit = centered / np.where(length > 1e-9, length, np.inf)[:, None]
    out = unit @ unit.T
    np.fill_diagonal(out, 1.0)
    return out
