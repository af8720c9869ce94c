"""Sharding plans: the processes that hold the parts of embedding tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_dlrm.files.documents import from_json
from keras_dlrm.files.durable import write
from keras_dlrm.files.paths import regular
from keras_dlrm.support.arguments import integer

KINDS = ("replicate", "table_wise", "row_wise", "column_wise")
MOST_PROCESSES = 2**20
_MOST_ROWS, _MOST_COLUMNS = 2**63 - 1, 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Shard:
    """A rectangle of a table.

    Attributes:
        table: Name of the table.
        rank: The process that has it; `None` where each has one.
        start, stop: Rows `start … stop - 1` of the table.
        first, last: Columns `first … last - 1` of it.
    """

    table: str
    rank: int | None
    start: int
    stop: int
    first: int
    last: int

    @property
    def rows(self) -> int:
        """Rows."""
        return self.stop - self.start

    @property
    def width(self) -> int:
        """Columns."""
        return self.last - self.first


@dataclasses.dataclass(frozen=True)
class Placement:
    """The sharding of one table.

    Args:
        kind: `"replicate"`: each process has the whole table; `"table_wise"`: one process has it; `"row_wise"`: several
            have some of its rows; `"column_wise"`: several have some columns of all its rows.
        ranks: The processes that have a part, in the order of the parts; none where it is replicated. One may have
            several parts.
    """

    kind: str
    ranks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", kind_of(self.kind))
        object.__setattr__(self, "ranks", tuple(integer("Placement", "ranks", rank, 0) for rank in self.ranks))
        if (self.kind == "replicate") != (not self.ranks) or (self.kind == "table_wise" and len(self.ranks) != 1):
            raise ValueError(
                f"Placement: {self.kind} with ranks={list(self.ranks)}; a replicated table has no ranks, a table-wise one exactly "
                "one, the others at least one."
            )


def _world_size(value: Any) -> int:
    return integer("ShardingPlan", "world_size", value, high=MOST_PROCESSES)


def kind_of(name: Any) -> str:
    """One of `KINDS`, from its name with "-", "_" or a space; `ValueError` for an unknown one."""
    kind = str(name).strip().lower().replace("-", "_").replace(" ", "_")
    kind = "replicate" if kind in ("replicated", "data_parallel") else kind
    if kind not in KINDS:
        raise ValueError(f"sharding {name!r} is unknown; use one of {list(KINDS)}.")
    return kind


class ShardingPlan:
    """The processes that hold the parts of each embedding table. `kd.plan` makes a plan; `kd.sharding.use` puts it to work.

    Args:
        world_size: Number of processes (on JAX: of devices), N.
        shapes: Table name → (rows, width).
        placements: Table name → `Placement`.

    Raises:
        ValueError: tables without a placement, or placements of unknown tables; ranks outside 0 … N-1; a width that its
            number of column parts does not divide; more row parts than rows.

    Example:

    >>> plan = ShardingPlan(2, {"C1": (10, 4)}, {"C1": Placement("row_wise", (0, 1))})
    >>> [(shard.rank, shard.start, shard.stop) for shard in plan.shards("C1")]
    [(0, 0, 5), (1, 5, 10)]
    """

    def __init__(self, world_size: int, shapes: Mapping[str, Sequence[int]], placements: Mapping[str, Placement]) -> None:
        self.world_size = _world_size(world_size)
        self.shapes: dict[str, tuple[int, int]] = {}
        for name, (rows, width) in shapes.items():
            rows = integer("ShardingPlan", f"rows of table {name!r}", rows, high=_MOST_ROWS)
            self.shapes[name] = rows, integer("ShardingPlan", f"width of table {name!r}", width, high=_MOST_COLUMNS)
        for name in (*self.shapes, *placements):
            if name not in self.shapes or name not in placements:
                raise ValueError(
                    f"ShardingPlan: table {name!r} has {'no placement' if name in self.shapes else 'no shape'}; the tables are "
                    f"{sorted(self.shapes)}, placed are {sorted(placements)}."
                )
        self.placements = {name: placements[name] for name in self.shapes}
        for name, placement in self.placements.items():
            self._check(name, placement)
        #: What the planner predicted of it, a `kd.sharding.Estimate`; no part of the plan itself.
        self.estimate: Any = None

    def _check(self, name: str, placement: Placement) -> None:
        rows, width = self.shapes[name]
        parts = len(placement.ranks)
        for rank in placement.ranks:
            if rank >= self.world_size:
                raise ValueError(
                    f"ShardingPlan: table {name!r} has a part on rank {rank}; with world_size={self.world_size} ranks are "
                    f"0 … {self.world_size - 1}."
                )
        if placement.kind == "column_wise" and width % parts:
            raise ValueError(
                f"ShardingPlan: table {name!r} of width {width} cannot be split into {parts} equal parts by columns; use a number "
                f"of parts that divides {width}."
            )
        if placement.kind == "row_wise" and parts > rows:
            raise ValueError(f"ShardingPlan: table {name!r} has {rows} rows, too few for {parts} parts by rows.")

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]], where: str, advice: str) -> None:
        """`ValueError` where the tables are not exactly these: name → (rows, width). `where` and `advice` are for the message."""
        odd = [name for name in sorted({*shapes, *self.shapes}) if shapes.get(name) != self.shapes.get(name)]
        if odd:
            raise ValueError(
                f"the plan is for other tables: {odd[0]!r} has (rows, width) {shapes.get(odd[0], 'none')} {where}, "
                f"{self.shapes.get(odd[0], 'none')} in the plan. {advice}"
            )

    def shards(self, name: str) -> list[Shard]:
        """The parts of a table: one of its size where it is replicated."""
        (rows, width), placement = self.shapes[name], self.placements[name]
        parts = len(placement.ranks)
        if placement.kind == "replicate":
            return [Shard(name, None, 0, rows, 0, width)]
        if placement.kind == "column_wise":
            each = width // parts
            return [Shard(name, r, 0, rows, i * each, (i + 1) * each) for i, r in enumerate(placement.ranks)]
        bounds = [rows * i // parts for i in range(parts + 1)]
        return [Shard(name, r, bounds[i], bounds[i + 1], 0, width) for i, r in enumerate(placement.ranks)]

    def __iter__(self) -> Iterator[Shard]:
        for name in self.shapes:
            yield from self.shards(name)

    def table_bytes(self, rank: int, itemsize: int = 4) -> int:
        """Bytes of the tables, without slots, that a process has."""
        return sum(s.rows * s.width * itemsize for s in self if s.rank in (None, rank))

    def for_world(self, world_size: int) -> ShardingPlan:
        """The same kinds for another number of processes: parts over all of them, whole tables to the least loaded one."""
        if world_size == self.world_size:
            return self
        return place(world_size, self.shapes, {name: p.kind for name, p in self.placements.items()})

    # -- JSON --------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain values, which `from_dict` takes."""
        return {
            "world_size": self.world_size,
            "tables": {
                name: {"sharding": p.kind, "ranks": list(p.ranks), "rows": self.shapes[name][0], "width": self.shapes[name][1]}
                for name, p in self.placements.items()
            },
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ShardingPlan:
        """Inverse of `to_dict`; `ValueError` where something is missing or unknown."""
        try:
            tables = data["tables"]
            if not tables:
                raise ValueError("ShardingPlan: tables is empty; it needs at least one: name → sharding, ranks, rows, width.")
            shapes = {name: (entry["rows"], entry["width"]) for name, entry in tables.items()}
            placements = {name: Placement(entry["sharding"], tuple(entry.get("ranks", ()))) for name, entry in tables.items()}
            return cls(data["world_size"], shapes, placements)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"ShardingPlan: not a plan ({error!r}); it needs world_size and tables: name → sharding, ranks, rows, width."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(
        cls, path: str | Path, shapes: Mapping[str, Sequence[int]] | None = None, world_size: int | None = None
    ) -> ShardingPlan:
        """Read what `save` wrote, or what someone wrote by hand: `{"tables": {"C1": "row_wise", …}}` is enough.

        Args:
            path: The file.
            shapes: The model's tables: name → (rows, width). Tables that the file does not name are placed table-wise. Needed
                where the file does not name rows and widths.
            world_size: As many processes as there are. A plan for another number of them keeps its kinds.

        Raises:
            ValueError: the file is not a plan, or one of other tables.
        """
        try:
            try:
                data = from_json(regular(path, "give a plan in JSON").read_bytes())
            except ValueError as error:
                raise ValueError(f'not a plan, which is JSON such as {{"tables": {{"C1": "row_wise"}}}} ({error}).') from error
            plan = cls.from_dict(data) if shapes is None else _completed(data, shapes, world_size)
            return plan if world_size is None else plan.for_world(world_size)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardingPlan) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def __str__(self) -> str:
        return repr(self) if self.estimate is None else str(self.estimate)

    def __repr__(self) -> str:
        return f"<ShardingPlan of {len(self.shapes)} tables over {self.world_size}>"


def _completed(data: Any, shapes: Mapping[str, Sequence[int]], world_size: int | None) -> ShardingPlan:
    """A plan from a file that may leave out what the model and the number of processes say."""
    tables = data.get("tables") if isinstance(data, Mapping) else None
    if not isinstance(tables, Mapping):
        raise ValueError("ShardingPlan: not a plan; it needs tables: name → sharding.")
    if not tables:
        raise ValueError('ShardingPlan: tables is empty; name at least one, such as {"tables": {"C1": "row_wise"}}.')
    unknown = sorted(set(tables) - set(shapes))
    if unknown:
        raise ValueError(f"ShardingPlan: there is no table {unknown[0]!r}; the model has {sorted(shapes)}.")
    entries = {n: dict(e) if isinstance(e, Mapping) else {"sharding": e} for n, e in tables.items()}
    for name, entry in entries.items():
        odd = sorted(set(entry) - {"sharding", "ranks", "rows", "width"})
        if odd or "sharding" not in entry or not isinstance(entry.get("ranks", []), list):
            raise ValueError(
                f"ShardingPlan: table {name!r} has {entry}; give sharding, one of {list(KINDS)}, and ranks (a list), rows and "
                "width where they matter."
            )
        saved = tuple(entry.get(key, of) for key, of in zip(("rows", "width"), shapes[name], strict=True))
        if saved != tuple(shapes[name]):
            raise ValueError(f"ShardingPlan: table {name!r} has (rows, width) {saved} there, {tuple(shapes[name])} in the model.")
    n = _world_size(data.get("world_size", 1) if world_size is None else world_size)
    kinds = {name: entries.get(name, {}).get("sharding", "table_wise") for name in shapes}
    # Ranks of another number of processes say nothing.
    alike = data.get("world_size") in (None, n)
    ranks = {name: tuple(entry["ranks"]) for name, entry in entries.items() if alike and entry.get("ranks")}
    fixed = {name: Placement(kinds[name], each) for name, each in ranks.items()}
    return place(n, shapes, kinds, fixed)


def place(
    world_size: int, shapes: Mapping[str, Sequence[int]], kinds: Mapping[str, str], fixed: Mapping[str, Placement] | None = None
) -> ShardingPlan:
    """Ranks for tables whose kinds are chosen: largest first, each to where the fewest bytes are.

    A table is split by rows or columns over all processes, as far as it has enough of them. `fixed` has tables whose ranks are
    chosen, too.
    """
    world_size = _world_size(world_size)
    placements: dict[str, Placement] = dict(fixed or {})
    load = [0] * world_size
    for shard in ShardingPlan(world_size, {name: shapes[name] for name in placements}, placements):
        if shard.rank is not None:
            load[shard.rank] += shard.rows * shard.width
    chosen = [name for name in shapes if name not in placements]
    for name in sorted(chosen, key=lambda name: -shapes[name][0] * shapes[name][1]):
        (rows, width), kind = shapes[name], kind_of(kinds[name])
        parts = {"replicate": 0, "table_wise": 1, "row_wise": min(rows, world_size)}.get(kind)
        if parts is None:
            parts = max(n for n in range(1, min(width, world_size) + 1) if width % n == 0)
        ranks = sorted(sorted(range(world_size), key=lambda rank: (load[rank], rank))[:parts])
        for rank in ranks:
            load[rank] += rows * width // parts
        placements[name] = Placement(kind, tuple(ranks))
    return ShardingPlan(world_size, shapes, placements)
