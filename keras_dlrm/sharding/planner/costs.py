"""Load, traffic and step time of a placement, counted without the arrays of a layout: quick enough to try many."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.sharding.layout import Group
from keras_dlrm.sharding.plan import Placement
from keras_dlrm.sharding.planner.machine import Machine
from keras_dlrm.sharding.planner.workload import Workload


@dataclasses.dataclass(frozen=True)
class GroupLoad:
    """The parts of one width: numbers (N,) of each of N processes (1 where they are replicated)."""

    width: int  # D of the parts
    replicated: bool  # whether each process has all of them
    rows: np.ndarray  # that a process has
    asked: np.ndarray  # positions that it is asked for of an example
    answered: np.ndarray  # outputs that it gives
    read: np.ndarray  # rows that it can expect to find among those asked for
    written: np.ndarray  # different rows that a step can be expected to change at most, which uniform ids do

    @property
    def positions(self) -> int:
        """P: all processes are asked for as many as the one with the most."""
        return int(self.asked.max())

    @property
    def outputs(self) -> int:
        """F."""
        return int(self.answered.max())


def loads(workload: Workload, world_size: int, placements: Mapping[str, Placement | tuple[str, Sequence[int]]]) -> list[GroupLoad]:
    """The groups of a placement, replicated ones last. A table's placement may also be its kind and ranks.

    Example:

    >>> work = Workload.of(kd.Schema(categorical=[kd.Categorical("a", 100), kd.Categorical("b", 10)]), 8)
    >>> (group,) = loads(work, 2, {"a": Placement("row_wise", (0, 1)), "b": Placement("table_wise", (1,))})
    >>> group.rows.tolist(), group.asked.tolist(), group.read.tolist()
    ([50, 60], [1, 2], [0.5, 1.5])
    """
    groups: dict[tuple[bool, int], GroupLoad] = {}
    for name, placement in placements.items():
        kind, ranks = (placement.kind, placement.ranks) if isinstance(placement, Placement) else placement
        table = workload.tables[name]
        copies = kind == "replicate"
        at = np.zeros(1, int) if copies else np.asarray(ranks)
        parts = len(at)
        width = table.width // parts if kind == "column_wise" else table.width
        n = 1 if copies else world_size
        key = (copies, width)
        if key not in groups:
            groups[key] = GroupLoad(width, copies, *(np.zeros(n, dtype) for dtype in (int, int, int, float, float)))
        group = groups[key]
        rows = np.full(parts, table.rows)
        if kind == "row_wise":
            rows = np.diff([table.rows * i // parts for i in range(parts + 1)])
        for total, each in (
            (group.rows, rows),
            (group.asked, np.full(parts, table.ids)),
            (group.answered, np.full(parts, table.outputs)),
            (group.read, table.ids * rows / table.rows),
            (group.written, -rows * np.expm1(-workload.global_batch * table.ids / table.rows)),
        ):
            np.add.at(total, at, each)
    return [groups[key] for key in sorted(groups)]


_ITEM = 4  # int32 and float32


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes that one process sends to the others in a training step; each receives as many."""

    ids: int  # rows asked for, and their weights where there are any
    vectors: int  # pooled ones, forward, and their gradients, backward
    replicated: int  # rows of replicated tables and their gradients
    dense: int  # gradients of the dense parameters
    metrics: int  # labels and predictions, which all processes see all of

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(dataclasses.astuple(self))


def traffic(n: int, groups: Sequence[Group | GroupLoad], global_batch: int, weighted: bool, dense_parameters: int) -> Traffic:
    """Bytes that a step of n processes together costs each of them. They do not depend on the size of any table."""
    others, batch = n - 1, math.ceil(global_batch / n)
    exchanged = [group for group in groups if not group.replicated]
    asked = sum(group.positions for group in exchanged)
    answered = sum(group.outputs * group.width for group in exchanged)
    copies = sum(group.positions * (1 + group.width) for group in groups if group.replicated)
    return Traffic(
        ids=_ITEM * others * batch * asked * (2 if weighted else 1),
        vectors=_ITEM * others * batch * answered * 2,
        replicated=_ITEM * others * batch * copies,
        # A ring: each process sends each of N parts on, once while they are added up and once as the sum.
        dense=_ITEM * 2 * others * math.ceil(dense_parameters / n),
        metrics=_ITEM * others * batch * 2,
    )


def allocated(work: Workload, groups: Sequence[GroupLoad]) -> int:
    """Bytes of tables and slots on each process: a group's variable is as high everywhere as the highest needs it."""
    return sum(int(group.rows.max()) * work.row_bytes(group.width) for group in groups)


def seconds(work: Workload, n: int, groups: Sequence[GroupLoad], machine: Machine) -> dict[str, float]:
    """Seconds of a step by part, each part as long as that of the slowest of `n` processes."""
    batch, crowd = math.ceil(work.global_batch / n), machine.crowd(n)
    moved = traffic(n, groups, work.global_batch, work.weighted, work.dense_parameters)
    shrink = work.wire_bytes / 4
    # Rows are read and summed, gradients read once for each lookup and summed, and rows and slots that changed read and written.
    lookup = np.zeros(n)
    for group in groups:
        # Of a copy, a process looks its own examples up and makes the updates of all.
        looked = batch if group.replicated else n * batch
        forward = looked * group.width * (group.read * work.number_bytes + group.answered * 4)
        backward = n * batch * group.read * group.width * 4
        update = group.written * 2 * work.row_bytes(group.width)
        touched = (forward + backward + update) / machine.memory_bandwidth
        lookup = lookup + touched + group.asked * n * batch * machine.row_seconds
    exchanged = [group for group in groups if not group.replicated]
    count = len(exchanged)
    products = 6 * work.dense_parameters * batch / machine.flops
    layers = work.activations * work.activation_bytes * batch + 5 * 4 * work.dense_parameters

    def per_collective(total: float, times: int, collective: Any) -> float:
        return times * collective(total / times, n) if times else 0.0

    return {
        "overhead": machine.step_seconds,
        "dense_layers": crowd * (products + layers / machine.memory_bandwidth),
        "lookup_and_update": crowd * float(lookup.max()),
        "ids": per_collective(moved.ids, count * (2 if work.weighted else 1), machine.all_to_all),
        "vectors": per_collective(moved.vectors * shrink, 2 * count, machine.all_to_all),
        "replicated": per_collective(moved.replicated * shrink, 2 * (len(groups) - count), machine.all_gather),
        "dense": machine.all_reduce(work.dense_parameters * work.wire_bytes, n),
        "metrics": machine.all_gather(moved.metrics, n),
    }
