"""Estimate of a plan: bytes on each device, bytes moved, time of a step."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.plan import Placement, ShardingPlan
from keras_dlrm.sharding.planner.costs import Traffic, allocated, loads, seconds, traffic
from keras_dlrm.sharding.planner.machine import Machine
from keras_dlrm.sharding.planner.workload import Workload
from keras_dlrm.support.terminal import print_table

_SHOWN_DEVICES = 16


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Costs of a plan. `print` shows them as tables.

    Attributes:
        world_size: N.
        global_batch: Examples of all processes in a step.
        tables: For each stored table: name, rows, width, bytes with slots, rows looked up for an example, sharding, the number
            of parts, and the reason.
        held: Bytes of tables and slots that each process needs, (N,).
        allocated: Bytes that each takes: the variables of all are as high as the highest.
        read: Rows that each can expect to find for an example of the global batch, (N,).
        traffic: Bytes that each sends in a step.
        seconds: Of a step, by part.
        considered: Candidates that were compared, each with its seconds, or `None` where it does not fit; empty for a given
            plan.
    """

    world_size: int
    global_batch: int
    tables: tuple[Mapping[str, Any], ...]
    held: tuple[int, ...]
    allocated: int
    read: tuple[float, ...]
    traffic: Traffic
    seconds: Mapping[str, float]
    considered: tuple[tuple[str, float | None], ...] = ()

    @property
    def step_seconds(self) -> float:
        """Seconds of a step: its parts follow each other."""
        return sum(self.seconds.values())

    @property
    def examples_per_second(self) -> float:
        """Throughput of all processes together."""
        return self.global_batch / self.step_seconds

    @property
    def communication_share(self) -> float:
        """Share of a step in which bytes move between processes."""
        return sum(self.seconds[name] for name in COMMUNICATION) / self.step_seconds

    @property
    def memory_balance(self) -> float:
        """Most bytes of tables that a process holds over their mean; 1 is even."""
        return _balance(self.held)

    @property
    def row_balance(self) -> float:
        """Most rows that a process looks up over their mean; 1 is even."""
        return _balance(self.read)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries."""
        return {
            "world_size": self.world_size,
            "global_batch": self.global_batch,
            "tables": [dict(table) for table in self.tables],
            "held_bytes": list(self.held),
            "allocated_bytes": self.allocated,
            "sent_bytes": {**dataclasses.asdict(self.traffic), "total": self.traffic.total},
            "memory_balance": self.memory_balance,
            "row_balance": self.row_balance,
            "seconds": {**self.seconds, "step": self.step_seconds},
            "communication_share": self.communication_share,
            "examples_per_second": self.examples_per_second,
            "considered": [{"plan": name, "seconds": seconds} for name, seconds in self.considered],
        }

    def __str__(self) -> str:
        out = io.StringIO()
        print_table(self.tables, f"Tables over {self.world_size} devices", file=out)
        print_table(self._devices(), "\nOf each device", file=out)
        print_table(self._parts(), "\nA step, predicted", file=out)
        if self.considered:
            fits = sorted((s, name) for name, s in self.considered if s is not None)
            shown = dict.fromkeys(name for _, name in fits)
            best = {name: min(s for s, other in fits if other == name) for name in shown}
            rows = [{"plan": name, "ms": 1e3 * best[name]} for name in list(shown)[:6]]
            without = len(self.considered) - len(fits)
            note = f"; {without} more do not fit" if without else ""
            print_table(rows, f"\nCompared: {len(fits)} placements{note}", file=out)
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        lines += [
            "",
            f"{self.examples_per_second:,.0f} examples/s: {1e3 * self.step_seconds:.2f} ms a step of {self.global_batch:,}, "
            f"{self.communication_share:.0%} of it communication",
            f"each device sends {self.traffic.total:,} bytes a step and takes {self.allocated:,} bytes for tables and slots",
            f"balance (most / mean): memory {self.memory_balance:.2f}, looked-up rows {self.row_balance:.2f}",
        ]
        return "\n".join(lines)

    def _devices(self) -> list[dict[str, Any]]:
        if self.world_size <= _SHOWN_DEVICES:
            return [
                {"device": str(rank), "bytes held": held, "allocated": self.allocated, "rows looked up": float(read)}
                for rank, (held, read) in enumerate(zip(self.held, self.read, strict=True))
            ]
        return [
            {"device": name, "bytes held": int(of(self.held)), "allocated": self.allocated, "rows looked up": float(of(self.read))}
            for name, of in (("least", np.min), ("mean", np.mean), ("most", np.max))
        ]

    def _parts(self) -> list[dict[str, Any]]:
        sent = dataclasses.asdict(self.traffic)
        return [
            {"part": name.replace("_", " "), "ms": 1e3 * time, "bytes sent": sent.get(name), "share": time / self.step_seconds}
            for name, time in self.seconds.items()
        ]  # fmt: skip


#: Parts of a step in which bytes move, as `Traffic` names them.
COMMUNICATION = tuple(field.name for field in dataclasses.fields(Traffic))


def explain(
    plan: ShardingPlan, schema: Schema, embedding_dim: int | Mapping[str, int] = 16, *,
    machine: Machine | str | Mapping[str, Any] = "a100", **options: Any,
) -> Estimate:  # fmt: skip
    """The costs of an existing plan.

    Args:
        plan: A plan, made for that schema and width.
        schema: A fitted schema.
        embedding_dim: Width of all tables, or table name → width.
        machine: A `Machine`, or a name in `MACHINES`.
        **options: As `Workload.of` takes them: `global_batch`, `optimizer`, …

    Raises:
        ValueError: the plan is for other tables.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("a", 1000), kd.Categorical("b", 1000)])
    >>> plan = ShardingPlan(2, {"a": (1000, 4), "b": (1000, 4)}, {n: Placement("row_wise", (0, 1)) for n in "ab"})
    >>> explain(plan, schema, 4, optimizer="sgd").held
    (16000, 16000)
    """
    work = Workload.of(schema, embedding_dim, **options)
    advice = "Give the schema, embedding_dim and quotient_remainder that it was made with."
    plan.check_shapes(work.shapes, "by the schema", advice)
    check_slots(work, {name: placement.kind for name, placement in plan.placements.items()})
    return weigh(work, plan.world_size, plan.placements, Machine.of(machine), {})


def check_slots(work: Workload, kinds: Mapping[str, str]) -> None:
    """`ValueError` for column parts of tables whose slot is one number for a whole row."""
    for name, kind in kinds.items():
        if kind == "column_wise" and work.optimizer == "rowwise_adagrad":
            raise ValueError(
                f"plan: table {name!r} is column_wise, but row-wise Adagrad has one accumulator for a whole row, which column "
                "parts cannot share; use row_wise or table_wise, or optimizer='adagrad'."
            )


def weigh(
    work: Workload, world_size: int, placements: Mapping[str, Placement], machine: Machine, reasons: Mapping[str, str]
) -> Estimate:
    """The costs of a placement, with the reasons by table."""
    groups = loads(work, world_size, placements)
    held, read = np.zeros(world_size), np.zeros(world_size)
    for group in groups:
        held = held + group.rows * work.row_bytes(group.width)
        read = read + group.read
    tables = []
    for name, placement in placements.items():
        use, parts = work.tables[name], len(placement.ranks)
        where = "all" if placement.kind == "replicate" else _listed(placement.ranks, world_size)
        tables.append(
            {"table": name, "rows": use.rows, "width": use.width, "bytes": work.table_bytes(name), "ids": use.ids,
             "sharding": placement.kind, "parts": max(parts, 1), "devices": where, "reason": reasons.get(name, "given")}
        )  # fmt: skip
    sent = traffic(world_size, groups, work.global_batch, work.weighted, work.dense_parameters)
    return Estimate(
        world_size, work.global_batch, tuple(tables), tuple(int(b) for b in held), allocated(work, groups),
        tuple(float(r) for r in read), sent, seconds(work, world_size, groups, machine),
    )  # fmt: skip


def _balance(values: Sequence[float]) -> float:
    return float(np.max(values) / np.mean(values)) if np.any(values) else 1.0


def _listed(ranks: Sequence[int], world_size: int) -> str:
    ranks = [int(rank) for rank in ranks]
    if ranks == list(range(world_size)):
        return "all"
    shown = ", ".join(str(rank) for rank in ranks[:4])
    return shown if len(ranks) <= 4 else f"{shown}, … ({len(ranks)})"
