"""Placement of rows on parameter servers."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_dlrm.sharding.layout import check_tables
from keras_dlrm.sharding.plan import Placement, ShardingPlan, place
from keras_dlrm.sharding.stacking import Stack

# Bytes of a float32 table from which on it is spread over all servers, where no plan says otherwise.
SPREAD = 1 << 20


def default_plan(shapes: dict[str, tuple[int, int]], servers: int) -> ShardingPlan:
    """Tables of 1 MiB or more by rows over all servers, the others whole, each to where the fewest bytes are.

    Example:

    >>> plan = default_plan({"C1": (10, 4), "C2": (10**6, 4)}, servers=2)
    >>> {name: placement.kind for name, placement in plan.placements.items()}
    {'C1': 'table_wise', 'C2': 'row_wise'}
    """
    kinds = {name: "row_wise" if rows * width * 4 >= SPREAD else "table_wise" for name, (rows, width) in shapes.items()}
    return place(servers, shapes, kinds)


def for_servers(plan: ShardingPlan, servers: int) -> ShardingPlan:
    """A plan whose ranks are parameter servers: each row is on one of them, as a whole.

    A *replicated* table is whole on the server with the fewest bytes; one that is split by *columns* is split by rows over
    the same servers. Neither changes what is learned.

    Args:
        plan: For any number of ranks; see `ShardingPlan.for_world`.
        servers: How many there are.

    Example:

    >>> plan = ShardingPlan(2, {"C1": (10, 4)}, {"C1": Placement("column_wise", (0, 1))})
    >>> [(shard.rank, shard.start, shard.stop) for shard in for_servers(plan, 2)]
    [(0, 0, 5), (1, 5, 10)]
    """
    plan = plan.for_world(servers)
    placements = {}
    for name, placement in plan.placements.items():
        if placement.kind == "column_wise":
            placements[name] = Placement("row_wise", placement.ranks[: plan.shapes[name][0]])
        elif placement.kind != "replicate":
            placements[name] = placement
    kept = ShardingPlan(servers, {name: plan.shapes[name] for name in placements}, placements)
    load = [kept.table_bytes(rank) for rank in range(servers)]
    copied = [name for name in plan.shapes if name not in placements]
    for name in sorted(copied, key=lambda name: -plan.shapes[name][0] * plan.shapes[name][1]):
        rank = load.index(min(load))
        load[rank] += plan.shapes[name][0] * plan.shapes[name][1] * 4
        placements[name] = Placement("table_wise", (rank,))
    return ShardingPlan(servers, plan.shapes, placements)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The rows of a stack of tables in P pieces, each on one server; arrays are int32 (P,)."""

    start: np.ndarray  # first row of each piece in the stack, ascending from 0
    server: np.ndarray  # that has it
    shift: np.ndarray  # from a row's number in the stack to its number on the server
    rows: tuple[int, ...]  # of each server


def split(stacks: Sequence[Stack], plan: ShardingPlan) -> list[Pieces]:
    """The pieces of each stack by a plan of `for_servers`; `ValueError` where that is for other tables."""
    check_tables(plan, stacks)
    cut: list[Pieces] = []
    for stack in stacks:
        rows, pieces = [0] * plan.world_size, []
        for name, first in stack.starts.items():
            for shard in plan.shards(name):
                rank, place = shard.rank or 0, first + shard.start
                pieces.append((place, rank, rows[rank] - place))
                rows[rank] += shard.rows
        start, server, shift = np.array(pieces, np.int32).T
        cut.append(Pieces(start, server, shift, tuple(rows)))
    return cut
