"""Tables in parts over several processes: ids go to the parts, sums of rows come back."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_dlrm.embeddings.huge_pages import use_huge_pages
from keras_dlrm.embeddings.lookup import lookup, sum_copies
from keras_dlrm.embeddings.pooling import side_by_side
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.sharding import everyone
from keras_dlrm.sharding.layout import Group, Layout, layout
from keras_dlrm.sharding.plan import Shard, ShardingPlan
from keras_dlrm.sharding.stacking import Stack

_ROWS_AT_ONCE = 2**16


class ShardedTables:
    """This process's parts of the tables of an `EmbeddingCollection`, and lookups that all processes take part in."""

    def __init__(self, stacks: Sequence[Stack], operation: str | None, plan: ShardingPlan) -> None:
        from keras_dlrm.sharding import collectives  # not loaded by programs of one process

        self.collectives = collectives
        self.stacks = stacks
        self.layout: Layout = layout(stacks, plan, operation)
        self.variables: list[Any] = []

    @property
    def plan(self) -> ShardingPlan:
        """The plan."""
        return self.layout.plan

    def build(self, layer: Any) -> None:
        """Make this process's variables, as weights of a layer that knows its `initial_rows`."""
        for group in self.layout.groups:
            name = f"tables_{group.width}" + ("_replicated" if group.replicated else "")
            variable = self.collectives.add_table(layer.add_table, name, (group.rows, group.width), group.replicated)
            variable.sharded = not group.replicated
            variable.columns_apart = any(shard.width < self.plan.shapes[shard.table][1] for shard, _ in group.placed)
            if group.replicated:
                variable.sum_copies = sum_copies
            use_huge_pages(variable)
            self.variables.append(variable)
        for stack in self.stacks:
            initial = layer.initial_rows(stack)
            for t, table in enumerate(stack.tables):
                for shard, variable, start in self.parts(table.name):
                    for first in range(shard.start, shard.stop, _ROWS_AT_ONCE):
                        rows = initial.rows_of(t, first, min(first + _ROWS_AT_ONCE, shard.stop), stack.width)
                        part = np.ascontiguousarray(rows[:, shard.first : shard.last])
                        self.write_rows(variable, shard.rank, start + first - shard.start, part)

    # Each position's ids, and then vectors, of all examples are together: what is cut out, sent and put in order on the way are
    # then whole stretches of memory, and rows of one table are looked up one after another.

    def pooled(self, asked: Sequence[Any], factors: Sequence[Any], training: bool | None) -> list[list[Any]]:
        """Pool as `WholeTables.pooled` does, for the examples of this process."""
        ids = ops.transpose(side_by_side([rows for rows, stack in zip(asked, self.stacks, strict=True) if stack.positions]))
        weights = None
        if factors[0] is not None:
            own = [f for f, stack in zip(factors, self.stacks, strict=True) if stack.positions]
            weights = ops.transpose(side_by_side(own))
        exchanged = self.layout.exchanged
        answers: list[Any] = []
        self.collectives.check_call(self.plan.world_size)
        if exchanged:
            rows = self.collectives.exchange(side_by_side([_asked(g, ids) for g in exchanged]))
            factors_of_rows = None
            if weights is not None:
                factors_of_rows = self.collectives.exchange(side_by_side([_spread(g, weights) for g in exchanged]))
            sums, first = [], 0
            for group, variable in zip(exchanged, self.variables, strict=False):
                positions = slice(first, first + group.positions)
                factor = None if factors_of_rows is None else factors_of_rows[:, positions]
                sums.append(self._answer(group, variable, rows[:, positions], factor, training))
                first += group.positions
            # Vectors of all widths in one message: (processes, Σ F · D, B) of (processes, F, B, D), without moving a number.
            widths = [group.outputs * group.width for group in exchanged]
            packed = [ops.reshape(s, (len(g.take), w, -1)) for s, g, w in zip(sums, exchanged, widths, strict=True)]
            received = self.collectives.exchange(side_by_side(packed))
            for group, width, first in zip(exchanged, widths, np.cumsum([0, *widths]), strict=False):
                part = received if len(exchanged) == 1 else received[:, int(first) : int(first) + width]
                answers.append(ops.reshape(part, (len(group.take) * group.outputs, -1, group.width)))
        for group, variable in zip(self.layout.groups[len(exchanged) :], self.variables[len(exchanged) :], strict=True):
            factor = None if weights is None else _spread(group, weights)
            answers.append(self._answer(group, variable, _asked(group, ids), factor, training)[0])
        return [self._sums(s, answers) for s in range(len(self.stacks))]

    def _answer(self, group: Group, variable: Any, ids: Any, factor: Any, training: bool | None) -> Any:
        """Rows of this process's variable (processes, P, B) → its outputs (processes, F, B, D)."""
        vectors = ops.cast(lookup(variable, ids, training), "float32")
        if factor is not None:
            vectors = vectors * ops.expand_dims(factor, -1)
        n, p, f = len(group.take), group.positions, group.outputs
        if not group.pools:
            return vectors
        alike = (group.segment == group.segment[0]).all()
        segment = group.segment[0] if alike else ops.take(group.segment, self.collectives.rank(), axis=0)
        # Positions first: (P, processes · B · D).
        by_position = ops.reshape(ops.moveaxis(vectors, 1, 0), (p, -1))
        sums = ops.segment_sum(by_position, ops.cast(segment, "int32"), num_segments=f + 1)[:f]
        return ops.moveaxis(ops.reshape(sums, (f, n, -1, group.width)), 0, 1)

    def _sums(self, s: int, answers: Sequence[Any]) -> list[Any]:
        """A stack's pooled vectors, cut into its blocks and halves, of each group's outputs (processes · F, B, D)."""
        parts, order = [], []
        for made in self.layout.made[s]:
            n, columns, rows = made.index.shape
            width = self.layout.groups[made.group].width
            part = ops.take(answers[made.group], made.index.reshape(-1), axis=0)
            part = ops.reshape(part, (n, columns, rows, -1, width))
            part = part[:, :, 0] if rows == 1 else ops.sum(part, axis=2)
            # (vectors, column parts, B, D) → (B, vectors, column parts · D)
            parts.append(ops.reshape(ops.transpose(part, (2, 0, 1, 3)), (-1, n, columns * width)))
            order += list(made.vectors)
        if not parts:
            return []
        vectors = side_by_side(parts)
        if order != sorted(order):
            vectors = ops.take(vectors, np.argsort(order).astype("int32"), axis=1)
        counts = self.layout.counts[s]
        firsts = itertools.accumulate(counts, initial=0)
        return [vectors if n == len(order) else vectors[:, first : first + n] for n, first in zip(counts, firsts, strict=False)]

    def parts(self, name: str) -> list[tuple[Shard, Any, int]]:
        """The parts of a table that are here, each with its variable and first row there."""
        return [
            (shard, variable, start)
            for group, variable in zip(self.layout.groups, self.variables, strict=True)
            for shard, start in group.placed
            if shard.table == name and (shard.rank is None or self.collectives.holds(shard.rank, variable))
        ]

    def shape_of(self, name: str) -> tuple[int, int]:
        """Rows and columns of a table."""
        return self.plan.shapes[name]

    def read_rows(self, variable: Any, owner: int | None, start: int, stop: int) -> np.ndarray:
        """Rows of a part's variable, or of a slot of it: float32. The owner is the part's rank; `None` where it is replicated."""
        return self.collectives.read(variable, owner, start, stop)  # type: ignore[no-any-return]

    def write_rows(self, variable: Any, owner: int | None, start: int, rows: np.ndarray) -> None:
        """Replace them, from `start` on."""
        self.collectives.write(variable, owner, start, rows)

    def read(self, name: str) -> np.ndarray:
        """A table, float32 (rows, width), put together of all processes' parts; all must ask for it."""
        table = np.zeros(self.plan.shapes[name], np.float32)
        for shard, variable, start in self.parts(name):
            table[shard.start : shard.stop, shard.first : shard.last] = self.read_rows(
                variable, shard.rank, start, start + shard.rows
            )
        if self.plan.placements[name].kind == "replicate":
            return table
        for first in range(0, len(table), _ROWS_AT_ONCE):
            # What is not here is 0.
            table[first : first + _ROWS_AT_ONCE] = everyone.arrays(table[first : first + _ROWS_AT_ONCE]).sum(0)
        return table

    def write(self, name: str, rows: Any) -> None:
        """Replace the rows of a table: each process its parts."""
        for shard, variable, start in self.parts(name):
            part = np.asarray(rows)[shard.start : shard.stop, shard.first : shard.last]
            self.write_rows(variable, shard.rank, start, np.ascontiguousarray(part, dtype=np.float32))


def _asked(group: Group, ids: Any) -> Any:
    """Table rows of all positions (all, B) → rows of each process's variable, or -1: int32 (processes, P, B)."""
    picked = _spread(group, ids)
    low, high, start = (ops.expand_dims(ops.convert_to_tensor(a), 2) for a in (group.low, group.high, group.start))
    return ops.where(ops.logical_and(picked >= low, picked < high), picked - low + start, PADDING)


def _spread(group: Group, values: Any) -> Any:
    """Values of all positions (all, B) → those that each process is asked for, (processes, P, B)."""
    picked = ops.take(values, group.take.reshape(-1), axis=0)
    return ops.reshape(picked, (*group.take.shape, -1))
