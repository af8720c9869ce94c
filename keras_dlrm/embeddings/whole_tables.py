"""Whole tables in this process: one variable for all tables of a width; stand-ins where the rows come from elsewhere."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.embeddings.huge_pages import use_huge_pages
from keras_dlrm.embeddings.lookup import lookup, replace_rows, rows_between, sum_copies
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.sharding.plan import Shard
from keras_dlrm.sharding.stacking import Stack, pooled_before
from keras_dlrm.support.scoped import Scoped

_stands_in = Scoped(False)


def stand_in_tables() -> contextlib.AbstractContextManager[Any]:
    """While this context is open, collections that are built on this thread make tables of one row.

    A model of any size is then rebuilt in next to no memory. Its lookups have to go through a tape (`lookup.taped`) that
    gives the real rows.
    """
    return _stands_in.using(True)


def stands_in() -> bool:
    """Whether collections that are built on this thread make such tables."""
    return bool(_stands_in.value)


class WholeTables:
    """The variables of an `EmbeddingCollection`'s stacks, and their lookups."""

    def __init__(self, stacks: Sequence[Stack], operation: str | None) -> None:
        self.stacks = stacks
        self.operation = operation
        self.variables: list[Any] = []

    def build(self, layer: Any) -> None:
        """Make the variables, as weights of a layer that knows its `initial_rows`."""
        stand_in = _stands_in.value
        in_parts = backend.can_write() and not stand_in
        for stack in self.stacks:
            initial = layer.initial_rows(stack)
            shape = (1 if stand_in else stack.rows, stack.width)
            table = layer.add_table(f"tables_{stack.width}", shape, "zeros" if in_parts or stand_in else initial)
            if backend.replicas() is not None:
                table.sum_copies = sum_copies
            if in_parts:
                use_huge_pages(table)
                # Part by part, so that building a model takes no more memory than its tables.
                for start, rows in initial.parts(stack.width):
                    backend.write(table, start, rows)
            self.variables.append(table)

    def pooled(self, asked: Sequence[Any], factors: Sequence[Any], training: bool | None) -> list[list[Any]]:
        """For each stack and block the sums of its rows, (B, columns, width), and after them those of its remainders.

        Args:
            asked: For each stack int32 (B, positions): rows of the tables, or -1.
            factors: For each stack what its rows are multiplied with, (B, positions), or `None`.
            training: Whether a gradient may be taken for the tables.
        """
        pooled: list[list[Any]] = []
        for number, (stack, rows, factor) in enumerate(zip(self.stacks, asked, factors, strict=True)):
            if not stack.blocks:
                pooled.append([])
                continue
            vectors = ops.cast(self.vectors(number, rows, training), "float32")
            sums = []
            for block in stack.blocks:
                n, h = len(block.columns), block.hotness
                together = pooled_before(block.second is not None, self.operation)
                for first in (block.first, block.second):
                    if first is None:
                        continue
                    # The gradient of a slice is a copy of the size of what was sliced.
                    whole = n * h == stack.positions
                    part = vectors if whole else vectors[:, first : first + n * h]
                    if factor is not None:
                        part = part * ops.expand_dims(factor[:, first : first + n * h], -1)
                    if h > 1 and together:
                        part = ops.sum(ops.reshape(part, (-1, n, h, stack.width)), axis=2)
                    sums.append(part)
            pooled.append(sums)
        return pooled

    def vectors(self, number: int, rows: Any, training: bool | None) -> Any:
        """Rows (B, positions, width) of a stack by its number, for rows of its tables, or -1."""
        start = ops.convert_to_tensor(self.stacks[number].per_position["start"], "int32")
        return self.looked_up(number, ops.where(rows >= 0, rows + start, PADDING), training)

    def looked_up(self, number: int, ids: Any, training: bool | None) -> Any:
        """Rows of the variable of a stack."""
        return lookup(self.variables[number], ids, training)

    def parts(self, name: str) -> list[tuple[Shard, Any, int]]:
        """A table as the one part that it is, with its variable and first row there."""
        number, shard, start = self._placed[name]
        return [(shard, self.variables[number], start)]

    @functools.cached_property
    def _placed(self) -> dict[str, tuple[int, Shard, int]]:
        return {
            table.name: (number, Shard(table.name, None, 0, table.rows, 0, table.width), stack.starts[table.name])
            for number, stack in enumerate(self.stacks)
            for table in stack.tables
        }

    def shape_of(self, name: str) -> tuple[int, int]:
        """Rows and columns of a table."""
        shard = self._placed[name][1]
        return shard.rows, shard.width

    def read_rows(self, variable: Any, owner: int | None, start: int, stop: int) -> np.ndarray:
        """Rows of a variable, or of one that has as many: float32."""
        return rows_between(variable, start, stop)

    def write_rows(self, variable: Any, owner: int | None, start: int, rows: np.ndarray) -> None:
        """Replace them, from `start` on."""
        replace_rows(variable, start, rows)

    def read(self, name: str) -> np.ndarray:
        """A table, float32 (rows, width), copied."""
        ((shard, variable, start),) = self.parts(name)
        return self.read_rows(variable, None, start, start + shard.rows)

    def write(self, name: str, rows: Any) -> None:
        """Replace the rows of a table."""
        ((_, variable, start),) = self.parts(name)
        replace_rows(variable, start, np.ascontiguousarray(rows, dtype=np.float32))
