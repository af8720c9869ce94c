"""`TraceClickLog`: a click log whose ids have a given locality."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np

from keras_dlrm.data.packed.packed import Batch
from keras_dlrm.data.synthetic.log import BLOCK, Block, random_lengths
from keras_dlrm.data.synthetic.random_log import RandomClickLog
from keras_dlrm.data.synthetic.traces.stack_profile import StackProfile
from keras_dlrm.data.synthetic.traces.trace import Trace
from keras_dlrm.schema.schema import PADDING, Schema


class TraceClickLog(RandomClickLog):
    """A click log of noise whose references to each table have a given locality: what a cache of rows is tried on.

    The references to a table are those of its columns, row by row, in the order of the schema; a multi-hot column has
    1 … hotness of them. Locality reaches across rows and batches: see `Trace`.

    Args:
        schema: Fitted schema with at least one sparse column; with `weighted=True`, weights are 1.
        profile: A `StackProfile` for all tables, or one by table name.
        seed: Seed of the rows.
        dense: `"uniform"` in [0, 1), or `"normal"` with mean 0 and variance 1.
        click_rate: Probability of a click, in every row.

    Raises:
        ValueError, KeyError: an argument is out of range, or a table has no profile.

    Example:

    >>> from keras_dlrm.schema.schema import Categorical
    >>> schema = Schema(categorical=[Categorical("C1", 1000)])
    >>> log = TraceClickLog(schema, StackProfile([0, 1], [1], cold=0.1))
    >>> ids = next(log.batches(1000))[0]["sparse"][:, 0]
    >>> bool(0.85 < np.mean(ids[1:] == ids[:-1]) < 0.95)
    True
    """

    kind = "trace"

    def __init__(
        self,
        schema: Schema,
        profile: StackProfile | Mapping[str, StackProfile],
        seed: int = 0,
        dense: str = "uniform",
        click_rate: float = 0.25,
    ) -> None:
        super().__init__(schema, seed, dense=dense, click_rate=click_rate)
        tables = schema.table_sizes
        if not tables:
            raise ValueError("TraceClickLog: the schema has no sparse column; locality belongs to ids.")
        self.profiles = dict(profile) if isinstance(profile, Mapping) else dict.fromkeys(tables, profile)
        if set(self.profiles) != set(tables):
            raise KeyError(
                f"TraceClickLog: profile names {sorted(self.profiles)}; it must name each of the tables {sorted(tables)}."
            )
        for table, entry in self.profiles.items():
            if not isinstance(entry, StackProfile):
                raise ValueError(f"TraceClickLog: the profile of table {table!r} is {entry!r}; give a StackProfile.")

    def _blocks(self, part: str) -> Iterator[Block]:
        traces = {
            table: Trace(self.profiles[table], size, [self.seed, zlib.crc32(f"{part} {table}".encode())])
            for table, size in self.schema.table_sizes.items()
        }
        for block in count():
            random = self._random(f"rows {part}", block)
            batch: Batch = {}
            if self.schema.dense:
                batch["dense"] = self._dense(random, BLOCK)
            batch["sparse"] = self._references(random, traces)
            truth = np.full(BLOCK, self.click_rate)
            yield Block(self._with_weights(batch), (random.random(BLOCK) < truth).astype(np.float32), truth)

    def _references(self, random: np.random.Generator, traces: Mapping[str, Trace]) -> np.ndarray:
        sparse = np.full((BLOCK, self.schema.width), PADDING, np.int32)
        places: dict[str, list[np.ndarray]] = {table: [] for table in traces}
        used = np.zeros(sparse.shape, bool)
        for column, offset in zip(self.schema.categorical, self.schema.offsets, strict=True):
            slots = np.arange(column.hotness)
            lengths = random_lengths(random, BLOCK, column.hotness) if column.hotness > 1 else 1
            used[:, offset : offset + column.hotness] = slots < lengths
            places[column.table_name].append(offset + slots)
        for table, trace in traces.items():
            columns = np.concatenate(places[table])
            mask = used[:, columns]
            drawn = np.full(mask.shape, PADDING, np.int32)
            drawn[mask] = trace.draw(int(mask.sum()))
            sparse[:, columns] = drawn
        return sparse

    def _settings(self) -> dict[str, Any]:
        profiles = {table: profile.to_dict() for table, profile in self.profiles.items()}
        return {"seed": self.seed, "dense": self.dense, "click_rate": self.click_rate, "profiles": profiles}
