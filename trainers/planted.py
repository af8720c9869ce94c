"""A planted click log for the trainers of sharded models: step i's batch depends on the seed and i alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.schema.schema import Categorical, Schema

_ROWS_DRAWN = 2**18
_IDS = 2**20  # that a log draws, of the largest table


def click_schema(rows: int) -> Schema:
    """Uneven vocabularies, one-hot and multi-hot columns, two that share a table.

    Args:
        rows: Of the largest table.
    """
    sizes = {"item": rows, "user": max(rows // 3, 2), "shop": max(rows // 50, 2), "country": 40, "device": 3}
    columns = [Categorical(name, size) for name, size in sizes.items()]
    columns += [Categorical("history", rows, hotness=5, combiner="mean", table="item")]
    columns += [Categorical("tags", 500, hotness=3)]
    return Schema(dense=["price", "age", "hour"], categorical=columns, label="click")


class ClickLog:
    """A planted log of `click_schema(rows)`, in memory that does not follow the rows.

    Of larger tables 2**20 ids are drawn, which lie evenly over their rows: what a log keeps of each id would be as much as the
    process's part of narrow tables.

    Args:
        rows: Of the largest table.
        seed: Of the log.

    Example:

    >>> batch, label = ClickLog(rows=50_000_000, seed=0).batch(0, 4)
    >>> batch["sparse"].shape, bool(batch["sparse"].max() > 2**20)
    ((4, 13), True)
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.seed = seed
        self._log = PlantedClickLog(click_schema(min(rows, _IDS)), seed=seed)
        whole, drawn = click_schema(rows).categorical, self._log.schema.categorical
        apart = [int(a.vocabulary_size or 0) // int(b.vocabulary_size or 0) for a, b in zip(whole, drawn, strict=True)]
        self._apart = np.repeat(apart, [column.hotness for column in whole]).astype(np.int32)

    def batch(self, number: int, batch_size: int, part: str = "train") -> Any:
        """A batch by its number, as of `PlantedClickLog.batch`."""
        batch, label = self._log.batch(number, batch_size, part)
        ids = batch["sparse"]
        return {**batch, "sparse": np.where(ids < 0, ids, ids * self._apart)}, label


class Steps(keras.utils.PyDataset):
    """Batches by their number: step i's batch depends on the log and on i alone.

    They are drawn beforehand, as every process would draw all of each. The first 262,144 rows come again and again.

    Args:
        log: A log with `batch(number, batch_size)`.
        batch_size: B.
        first, stop: The first step and the one after the last.
    """

    def __init__(self, log: Any, batch_size: int, first: int, stop: int) -> None:
        super().__init__()
        self.first, self.stop = first, stop
        self._period = max(1, _ROWS_DRAWN // batch_size)
        numbers = {i % self._period for i in range(first, min(stop, first + self._period))}
        self._drawn = {number: log.batch(number, batch_size) for number in sorted(numbers)}

    def __len__(self) -> int:
        return max(self.stop - self.first, 0)

    def __getitem__(self, index: int) -> Any:
        return self._drawn[(self.first + index) % self._period]
