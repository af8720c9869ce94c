"""`kd.plan`: the best placement of each table among the candidates."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.plan import MOST_PROCESSES, Placement, ShardingPlan, kind_of
from keras_dlrm.sharding.planner.candidates import Placed, candidates, placed
from keras_dlrm.sharding.planner.costs import allocated, loads, seconds
from keras_dlrm.sharding.planner.estimate import check_slots, weigh
from keras_dlrm.sharding.planner.machine import Machine
from keras_dlrm.sharding.planner.workload import Workload
from keras_dlrm.support.arguments import integer, number

_OF_MEMORY = 0.8  # the rest is for activations and what the framework takes
_TIE = 1.01
_EVEN = 1.05  # of the mean share of memory


def plan(
    schema: Schema, world_size: int, embedding_dim: int | Mapping[str, int] = 16, *,
    constraints: Mapping[str, Any] | None = None, machine: Machine | str | Mapping[str, Any] = "a100",
    memory_bytes: float | None = None, even_memory: bool = False, **options: Any,
) -> ShardingPlan:  # fmt: skip
    """Place each table: the fastest of a few dozen candidates, by prediction, among those that fit the memory.

    Candidates differ in thresholds: up to which size tables are replicated, from which size (or share of the work) they are
    split by rows or columns, and whether whole tables and parts are spread by work alone or by bytes, too. `print(plan)` shows
    what was chosen and why, `plan.estimate` has the numbers.

    Args:
        schema: A fitted schema.
        world_size: Number of processes (on JAX: of devices), N.
        embedding_dim: Width of all tables, or table name → width.
        constraints: Table name → `"replicate"`, `"table_wise"`, `"row_wise"` or `"column_wise"`, or a `Placement`, or a mapping
            `{"sharding": …, "ranks": […]}`. The name of a split table stands for both its parts.
        machine: A `Machine`, or a name in `kd.sharding.MACHINES`.
        memory_bytes: What tables, slots and dense parameters may take on a device; 80% of the machine's memory if omitted.
        even_memory: Take the fastest plan that gives no device more than 5% above the mean share of tables and slots. The fastest
            of all may leave one with half as much again as the others. Where none is so even, as with one large table of few
            rows, the fastest of all is taken.
        **options: The model and its training, as `kd.sharding.Workload.of` takes them: `global_batch`, `optimizer`,
            `dense_parameters` or `bottom_mlp` and `top_mlp`, `quotient_remainder`, `table_dtype`, `half_precision`.

    Returns:
        A `ShardingPlan`.

    Raises:
        KeyError: a constraint for an unknown table.
        ValueError: the tables do not fit; a constraint that cannot be kept.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("user", 1_000_000), kd.Categorical("day", 7)])
    >>> plan = kd.plan(schema, world_size=2, embedding_dim=32, constraints={"user": "row-wise"})
    >>> plan.placements["user"]
    Placement(kind='row_wise', ranks=(0, 1))
    """
    work = Workload.of(schema, embedding_dim, **options)
    return plan_for(work, world_size, constraints, machine, memory_bytes, even_memory)


def plan_for(
    work: Workload, world_size: int, constraints: Mapping[str, Any] | None = None,
    machine: Machine | str | Mapping[str, Any] = "a100", memory_bytes: float | None = None, even_memory: bool = False,
) -> ShardingPlan:  # fmt: skip
    """A plan for a workload; the other arguments are those of `plan`."""
    n = integer("plan", "world_size", world_size, high=MOST_PROCESSES)
    machine = Machine.of(machine)
    limit = _OF_MEMORY * machine.memory_bytes / machine.crowd(n) if memory_bytes is None else memory_bytes
    limit = number("plan", "memory_bytes", limit)
    fixed = _constraints(work, n, constraints or {})
    check_slots(work, {name: kind for name, (kind, _) in fixed.items()})
    room = limit - work.dense_bytes
    best, considered, least = _fastest(work, n, fixed, room, machine)
    if best is None:
        raise ValueError(_does_not_fit(work, n, limit, least, fixed))
    plan = _explained(work, n, best, considered, machine)
    if even_memory and plan.estimate is not None:
        room = min(room, _EVEN * sum(plan.estimate.held) / n)
        best, considered, _ = _fastest(work, n, fixed, room, machine)
        plan = plan if best is None else _explained(work, n, best, considered, machine)
    return plan


def _fastest(
    work: Workload, n: int, fixed: Mapping[str, Placed], room: float, machine: Machine
) -> tuple[tuple[dict[str, Placed], dict[str, str]] | None, list[tuple[str, float | None]], int]:
    """Placements and their reasons, if any fit; the seconds of each candidate that was considered; the least bytes of any."""
    best: tuple[float, int, dict[str, Placed], dict[str, str]] | None = None
    considered: list[tuple[str, float | None]] = []
    least, seen = 0, set()
    for candidate in candidates(work, n, room):
        placements, reasons = placed(work, n, candidate, fixed, room, machine)
        key = tuple(sorted(placements.items()))
        if key in seen:
            continue
        seen.add(key)
        groups = loads(work, n, placements)
        needed = allocated(work, groups)
        least = min(least or needed, needed)
        if needed > room:
            considered.append((candidate.name, None))
            continue
        time = sum(seconds(work, n, groups, machine).values())
        considered.append((candidate.name, time))
        # Of plans that are as fast but for a percent, the one that takes the least memory.
        if best is None or time * _TIE < best[0] or (time < best[0] * _TIE and needed < best[1]):
            best = time, needed, placements, reasons
    return best and best[2:], considered, least


def _explained(
    work: Workload, n: int, best: tuple[dict[str, Placed], dict[str, str]], considered: list[tuple[str, float | None]],
    machine: Machine,
) -> ShardingPlan:  # fmt: skip
    placements, reasons = best
    plan = ShardingPlan(n, work.shapes, {name: Placement(*placement) for name, placement in placements.items()})
    estimate = weigh(work, n, plan.placements, machine, reasons)
    plan.estimate = dataclasses.replace(estimate, considered=tuple(considered))
    return plan


def _constraints(work: Workload, n: int, constraints: Mapping[str, Any]) -> dict[str, Placed]:
    """Stored table → kind and ranks, those empty where they are to be chosen."""
    fixed: dict[str, Placed] = {}
    known = {table.logical for table in work.tables.values()} | set(work.tables)
    if not isinstance(constraints, Mapping):
        raise ValueError(f"plan: constraints={constraints!r} must map names of tables to kinds, as in {{'user': 'row_wise'}}.")
    for name, wanted in constraints.items():
        if name not in known:
            raise ValueError(f"plan: constraint for the unknown table {name!r}; there are {sorted(known)}.")
        if isinstance(wanted, Mapping):
            odd = sorted(set(wanted) - {"sharding", "kind", "ranks"})
            kind = wanted.get("sharding", wanted.get("kind"))
            if odd or kind is None:
                raise ValueError(
                    f"plan: the constraint of table {name!r} is {dict(wanted)!r}; give sharding, and ranks if they matter."
                )
            wanted = Placement(kind, tuple(wanted["ranks"])) if wanted.get("ranks") else kind
        kind, ranks = (wanted.kind, wanted.ranks) if isinstance(wanted, Placement) else (kind_of(wanted), ())
        for part, table in work.tables.items():
            if name in (part, table.logical):
                fixed[part] = (kind, ranks)
                if ranks:  # is refused where it cannot be
                    ShardingPlan(n, {part: work.shapes[part]}, {part: Placement(kind, ranks)})
    return fixed


def _does_not_fit(work: Workload, n: int, limit: float, least: int, fixed: Mapping[str, Any]) -> str:
    whole = sum(work.table_bytes(name) for name in work.tables)
    needed = least + work.dense_bytes
    advice = [f"raise memory_bytes to {needed:,}"]
    room = limit - work.dense_bytes
    if not fixed and room > 0 and whole / room > n:
        advice.append(f"world_size to at least {int(whole // room) + 1}")
    if work.slot_bytes[0]:
        advice.append("use optimizer='rowwise_adagrad', whose slots are small")
    advice.append("choose narrower, hashed or quotient-remainder tables")
    if fixed:
        advice.append(f"free the constraints on {sorted(fixed)}")
    return (
        f"plan: tables, slots and dense parameters do not fit: the most even placement takes {needed:,} bytes on each of {n} "
        f"devices ({whole:,} bytes in all), memory_bytes allows {int(limit):,}. Remedies: {'; '.join(advice)}."
    )
