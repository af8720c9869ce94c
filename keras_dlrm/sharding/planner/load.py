"""Load of each process under a placement, counted without the arrays of a layout: quick enough to try many."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_dlrm.sharding.plan import Placement
from keras_dlrm.sharding.planner.workload import Workload


@dataclasses.dataclass(frozen=True)
class GroupLoad:
    """The parts of one width: what each of N processes (1 where they are replicated) has and does of them.

    Attributes:
        width: D of the parts.
        replicated: Whether each process has all of them.
        rows: Rows that a process has, (N,).
        asked: Positions that it is asked for of an example, (N,).
        answered: Outputs that it gives, (N,).
        read: Rows that it can expect to find among those asked for, (N,).
        written: Different rows that a step can be expected to change at most: as many as there are where ids are uniform, (N,).
    """

    width: int
    replicated: bool
    rows: np.ndarray
    asked: np.ndarray
    answered: np.ndarray
    read: np.ndarray
    written: np.ndarray

    @property
    def positions(self) -> int:
        """P: all processes are asked for as many as the one with the most."""
        return int(self.asked.max())

    @property
    def outputs(self) -> int:
        """F."""
        return int(self.answered.max())


def loads(
    workload: Workload, world_size: int, placements: Mapping[str, Placement | tuple[str, Sequence[int]]]
) -> list[GroupLoad]:
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
            counts = [np.zeros(n, dtype) for dtype in (int, int, int, float, float)]
            groups[key] = GroupLoad(width, copies, *counts)
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
