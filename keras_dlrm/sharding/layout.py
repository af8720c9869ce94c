"""Layout of a plan: which process looks up which ids, and what it sends back.

The tables' parts of equal width are a *group*: one variable on each process, as high as the highest needs it. Of each example
a process is asked for rows of its parts, and answers with sums of those rows: its *outputs*. An output is a part, by rows or
columns, of the pooled vector of one column of the schema (or of one looked-up row, where rows are combined before they are
pooled).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_dlrm.sharding.plan import Shard, ShardingPlan
from keras_dlrm.sharding.stacking import Stack, pooled_before


@dataclasses.dataclass(frozen=True)
class Group:
    """The parts of one width, N processes (1 where they are replicated) with up to P positions and F outputs each.

    Arrays are int32 (N, P). A process has the table's rows `low … high - 1` for a position, from row `start` of its variable on.
    """

    width: int  # D of the parts
    replicated: bool  # whether each process has all of them
    rows: int  # of each process's variable
    placed: tuple[tuple[Shard, int], ...]  # each part and the first of its rows in the variable
    take: np.ndarray  # a position's place among all ids of an example
    low: np.ndarray
    high: np.ndarray
    start: np.ndarray
    segment: np.ndarray  # the output that the position's row is added to; F for none
    outputs: int  # F

    @property
    def positions(self) -> int:
        """P."""
        return int(self.take.shape[1])

    @property
    def pools(self) -> bool:
        """Whether any output is a sum of several rows."""
        # Positions that only fill a process's share up to P belong to no output.
        own = (self.segment == np.arange(self.positions)) | (self.segment == self.outputs)
        return not (own.all() and self.outputs == self.positions)


@dataclasses.dataclass(frozen=True)
class Made:
    """Recipe of the vectors of a stack that are made the same way: row parts are added, column parts put side by side."""

    group: int  # whose outputs they are made of
    index: np.ndarray  # int32 (vectors, column parts, row parts): places among the group's N·F outputs
    vectors: np.ndarray  # their numbers in the stack


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rows that each process keeps, is asked for and answers.

    Vectors of a stack stand in the order of its blocks, the remainders' of a block after its own.
    """

    plan: ShardingPlan
    groups: tuple[Group, ...]  # replicated ones last
    made: tuple[tuple[Made, ...], ...]  # for each stack, recipes of its vectors
    counts: tuple[tuple[int, ...], ...]  # for each stack, vectors of each block, and after them of its remainders

    @property
    def exchanged(self) -> list[Group]:
        """The groups whose parts are on one process each."""
        return [group for group in self.groups if not group.replicated]


def layout(stacks: Sequence[Stack], plan: ShardingPlan, operation: str | None) -> Layout:
    """The numbers of a plan for the tables of some stacks; `operation` is that of quotient–remainder tables, if there are any."""
    check_tables(plan, stacks)
    n = plan.world_size
    makers: dict[tuple[bool, int], _GroupMaker] = {}
    placed: dict[Shard, tuple[_GroupMaker, int]] = {}
    for shard in plan:
        key = (shard.rank is None, shard.width)
        maker = makers.setdefault(key, _GroupMaker(1 if shard.rank is None else n, *key))
        placed[shard] = (maker, maker.add_shard(shard))
    by_stack = []
    first = 0
    for stack in stacks:
        needed = []
        for name, positions in vectors(stack, operation):
            shards = plan.shards(name)
            columns = sorted({(s.first, s.last) for s in shards})
            parts = [
                [placed[s][0].ask(s, placed[s][1], [first + p for p in positions]) for s in shards if (s.first, s.last) == c]
                for c in columns
            ]  # fmt: skip
            needed.append((placed[shards[0]][0], parts))
        by_stack.append(needed)
        first += stack.positions
    order = sorted(makers.values(), key=lambda maker: maker.replicated)
    groups = tuple(maker.group() for maker in order)
    made = []
    for needed in by_stack:
        alike: dict[tuple[int, int, int], list[int]] = {}
        for v, (maker, parts) in enumerate(needed):
            alike.setdefault((order.index(maker), len(parts), len(parts[0])), []).append(v)
        per_stack = []
        for (g, _, _), which in alike.items():
            index = [[[r * groups[g].outputs + f for r, f in row] for row in needed[v][1]] for v in which]
            per_stack.append(Made(g, np.array(index, np.int32), np.array(which, np.int32)))
        made.append(tuple(per_stack))
    return Layout(plan, groups, tuple(made), tuple(_counts(stack, operation) for stack in stacks))


def check_tables(plan: ShardingPlan, stacks: Sequence[Stack]) -> None:
    """`ValueError` where a plan is not for exactly the tables of some stacks."""
    shapes = {table.name: (table.rows, table.width) for stack in stacks for table in stack.tables}
    plan.check_shapes(shapes, "in the model", "Make the plan from the model's schema and widths.")


def _counts(stack: Stack, operation: str | None) -> tuple[int, ...]:
    counts: list[int] = []
    for block in stack.blocks:
        together = pooled_before(block.second is not None, operation)
        count = len(block.columns) * (1 if together else block.hotness)
        counts += [count] if block.second is None else [count, count]
    return tuple(counts)


def vectors(stack: Stack, operation: str | None) -> list[tuple[str, list[int]]]:
    """The vectors that a stack's blocks need, in order: each one's table, and the positions that are summed for it."""
    names = list(stack.starts)
    table = np.searchsorted(list(stack.starts.values()), stack.per_position["start"], side="right") - 1
    needed = []
    for block in stack.blocks:
        n, h = len(block.columns), block.hotness
        together = h if pooled_before(block.second is not None, operation) else 1
        for start in (block.first, block.second):
            if start is not None:
                for p in range(start, start + n * h, together):
                    needed.append((names[table[p]], list(range(p, p + together))))
    return needed


class _GroupMaker:
    def __init__(self, n: int, replicated: bool, width: int) -> None:
        self.replicated, self.width = replicated, width
        self.height = [0] * n
        self.shards: list[tuple[Shard, int]] = []
        self.asked: list[list[tuple[int, int, int, int, int]]] = [[] for _ in range(n)]
        self.outputs = [0] * n

    def add_shard(self, shard: Shard) -> int:
        """Make room; the first row."""
        rank = shard.rank or 0
        start = self.height[rank]
        self.shards.append((shard, start))
        self.height[rank] += shard.rows
        return start

    def ask(self, shard: Shard, start: int, positions: list[int]) -> tuple[int, int]:
        """Have its process look up some positions; that process and its output."""
        rank = shard.rank or 0
        output = self.outputs[rank]
        self.outputs[rank] += 1
        self.asked[rank] += [(p, shard.start, shard.stop, start, output) for p in positions]
        return rank, output

    def group(self) -> Group:
        most, outputs = max(len(asked) for asked in self.asked), max(self.outputs)
        # Rows `0 … -1`: no id is in there.
        table = np.array([[*asked, *[(0, 0, 0, 0, outputs)] * (most - len(asked))] for asked in self.asked], np.int32)
        table = table.reshape(len(self.asked), most, 5)
        take, low, high, start, segment = np.moveaxis(table, 2, 0)
        rows = max(self.height)
        return Group(self.width, self.replicated, rows, tuple(self.shards), take, low, high, start, segment, outputs)
