"""Candidate placements: thresholds choose how tables are sharded, parts go to the least loaded."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np

from keras_dlrm.sharding.planner.machine import Machine
from keras_dlrm.sharding.planner.workload import TableUse, Workload

Placed = tuple[str, tuple[int, ...]]
_SMALL = (0, 2**16, 2**20, 2**24)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Thresholds."""

    replicate: float  # tables of at most so many bytes are replicated
    cap: float  # a part has at most so many bytes
    split: str  # kind of larger tables: `"row_wise"` or `"column_wise"`
    share: float = math.inf  # tables that make a larger share of all work are split, too
    even: bool = True  # whether parts are spread by bytes, too, rather than by work alone

    @property
    def name(self) -> str:
        """The thresholds in words."""
        words = [f"replicate to {size(self.replicate)}"] if self.replicate else []
        if self.cap == 0:
            words.append("row-wise over all")
        elif self.cap < math.inf or self.share < math.inf:
            above = [f"{size(self.cap)}"] if self.cap < math.inf else []
            above += [f"{self.share:.2g} of the work"] if self.share < math.inf else []
            words.append(f"{self.split.replace('_', '-')} above {' or '.join(above)}")
        else:
            words.append("whole tables")
        return ", ".join([*words, "spread by work and bytes" if self.even else "spread by work"])


def size(number: float) -> str:
    """Bytes in words, such as "1.5 KiB"."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


def candidates(work: Workload, n: int, room: float) -> Iterator[Candidate]:
    """Thresholds to try for `n` processes with `room` bytes for tables on each, simple ones first."""
    if n == 1:
        yield Candidate(0, math.inf, "row_wise")
        return
    fair = sum(work.table_bytes(name) for name in work.tables) / n
    splits = ["row_wise"] if work.optimizer == "rowwise_adagrad" else ["row_wise", "column_wise"]
    for replicate in _SMALL:
        for even in (False, True):
            yield Candidate(replicate, math.inf, "row_wise", even=even)
            for split in splits:
                for cap in sorted({max(room, 1.0), fair, fair / 4}, reverse=True):
                    yield Candidate(replicate, cap, split, even=even)
                for cap in (max(room, 1.0), fair):
                    for share in (1 / n, 0.5 / n):
                        yield Candidate(replicate, cap, split, share, even)
        yield Candidate(replicate, 0, "row_wise")
    yield Candidate(math.inf, math.inf, "row_wise")


def placed(
    work: Workload, n: int, candidate: Candidate, fixed: Mapping[str, Placed], room: float, machine: Machine
) -> tuple[dict[str, Placed], dict[str, str]]:
    """A placement by thresholds, and each table's reason. Largest first, each part goes to where there is the least.

    `fixed` has kinds and ranks that are given, by table; no ranks where those are to be chosen.
    """
    cost = _Cost(work, machine)
    chosen: dict[str, tuple[str, int, str]] = {}
    for name, table in work.tables.items():
        kind, ranks = fixed.get(name, ("", ()))
        constraint = f"constraint: {kind}" if kind else ""
        number, cap = work.table_bytes(name), candidate.cap
        share = cost.share(table)
        wanted = n if cap == 0 else max(1, math.ceil(number / cap))
        if share > candidate.share:
            wanted = max(wanted, math.ceil(share / candidate.share))
        reason = constraint
        if not kind:
            kind = _kind(table, number, candidate, n, wanted)
            reason = _reason(kind, number, share, candidate, n)
        parts = len(ranks) or _parts(kind, table, n, wanted, bool(constraint))
        chosen[name] = (kind, parts, reason)

    spread = _Spread(cost, n, candidate.even, room)
    order = sorted(chosen, key=lambda name: (-spread.weight(name, chosen[name][1]), name))
    placements: dict[str, Placed] = {}
    for name in [name for name in order if fixed.get(name, ("", ()))[1]]:
        placements[name] = (chosen[name][0], fixed[name][1])
        spread.put(name, *placements[name])
    for name in order:
        kind, parts, _ = chosen[name]
        if kind == "replicate":
            placements[name] = (kind, ())
        elif name not in placements:
            placements[name] = (kind, spread.best(name, kind, parts))
            spread.put(name, *placements[name])
    return {name: placements[name] for name in work.tables}, {name: reason for name, (_, _, reason) in chosen.items()}


class _Cost:
    """Seconds that parts of tables take for an example: their rows are looked up, ids come and vectors go."""

    def __init__(self, work: Workload, machine: Machine) -> None:
        self.work, self.machine = work, machine
        self.all = sum(self.part(table, "table_wise", 1) for table in work.tables.values())

    def part(self, table: TableUse, kind: str, parts: int) -> float:
        work, machine = self.work, self.machine
        width = table.width // parts if kind == "column_wise" else table.width
        read = table.ids / parts if kind == "row_wise" else table.ids
        sent = 4 * table.ids + 2 * work.wire_bytes * table.outputs * width
        moved = read * width * (work.number_bytes + 4) + table.outputs * width * 4
        return sent / machine.link_bandwidth + moved / machine.memory_bandwidth + table.ids * machine.row_seconds

    def share(self, table: TableUse) -> float:
        return self.part(table, "table_wise", 1) / self.all


def _kind(table: TableUse, number: int, candidate: Candidate, n: int, wanted: int) -> str:
    if n > 1 and number <= candidate.replicate:
        return "replicate"
    if wanted == 1:
        return "table_wise"
    if candidate.split == "column_wise" and min(table.width, n) > 1:
        # More parts for fewer bytes than there are columns: by rows. For less work there are no other parts than columns.
        by_bytes = math.ceil(number / candidate.cap)
        return "column_wise" if _parts("column_wise", table, n, by_bytes, False) >= by_bytes else "row_wise"
    return "row_wise"


def _parts(kind: str, table: TableUse, n: int, wanted: int, constrained: bool) -> int:
    if kind in ("replicate", "table_wise"):
        return 1
    # Split because that was asked for, a table is split as far as it goes.
    wanted = n if constrained and wanted == 1 else wanted
    if kind == "row_wise":
        return min(wanted, n, table.rows)
    divisors = [d for d in range(1, min(table.width, n) + 1) if table.width % d == 0]
    return next((d for d in divisors if d >= wanted), divisors[-1])


def _reason(kind: str, number: int, share: float, candidate: Candidate, n: int) -> str:
    if kind == "replicate":
        return f"{size(number)}: a copy each" if candidate.replicate < math.inf else "copies fit and cost the least"
    if kind == "table_wise":
        return "one device" if n == 1 else "whole, where there is the least"
    if candidate.cap == 0:
        return "rows over all devices"
    if share > candidate.share and number <= candidate.cap:
        return f"{share:.2g} of the work, more than {candidate.share:.2g}"
    return f"{size(number)}, more than {size(candidate.cap)} a part"


class _Spread:
    """Bytes and work of each process so far, and the place of the next part."""

    def __init__(self, cost: _Cost, n: int, even: bool, room: float) -> None:
        self.cost, self.work, self.n, self.even, self.room = cost, cost.work, n, even, room
        self.held = np.zeros(n)
        self.bytes: dict[int, np.ndarray] = {}
        self.done: dict[int, np.ndarray] = {}
        self.all_bytes = sum(self.work.table_bytes(name) for name in self.work.tables)

    def weight(self, name: str, parts: int) -> float:
        work = self.cost.share(self.work.tables[name])
        return max(self.work.table_bytes(name) / self.all_bytes, work) / parts if self.even else work

    def _part(self, name: str, kind: str, parts: int) -> tuple[int, float, float]:
        table = self.work.tables[name]
        width = table.width // parts if kind == "column_wise" else table.width
        return width, self.work.table_bytes(name) / parts, self.cost.part(table, kind, parts)

    def best(self, name: str, kind: str, parts: int) -> tuple[int, ...]:
        width, number, work = self._part(name, kind, parts)
        bytes_, done = (of.get(width, np.zeros(self.n)) for of in (self.bytes, self.done))
        score = (done + work) / self.cost.all + 1e-6 * (self.held + number) / self.all_bytes
        if self.even:
            score = np.maximum(score, (bytes_ + number) / self.all_bytes)
        score = score + np.where(self.held + number > self.room, 1e3 + self.held / self.all_bytes, 0.0)
        ranks = np.argsort(score, kind="stable")[:parts]
        return tuple(int(rank) for rank in sorted(ranks))

    def put(self, name: str, kind: str, ranks: tuple[int, ...]) -> None:
        if kind == "replicate":
            return
        width, number, work = self._part(name, kind, len(ranks))
        for of, value in ((self.bytes, number), (self.done, work)):
            np.add.at(of.setdefault(width, np.zeros(self.n)), list(ranks), value)
        np.add.at(self.held, list(ranks), number)
