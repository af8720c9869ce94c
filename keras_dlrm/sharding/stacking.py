"""Stacks of tables that share a variable: where their rows are in it, and which of its rows an id asks for."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np

from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.hashing import LARGEST, fold, mix
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.compression import QuotientRemainder
from keras_dlrm.support.arguments import integer


@dataclasses.dataclass(frozen=True)
class Table:
    """One table as it is stored: a logical table, or one of the two that stand for it. Id i has row (i // divisor) % modulus."""

    name: str  # the logical table's; `name.quotient` and `name.remainder` where it is split
    rows: int
    width: int
    half_width: float  # s of its initial distribution U(-s, s)
    number: tuple[int, ...]  # that its initial rows are drawn with, its own among all tables
    divisor: int = 1
    modulus: int = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive columns of a stack that are pooled the same way, by one operation."""

    columns: tuple[int, ...]  # places among the schema's sparse columns
    hotness: int
    combiner: str
    first: int  # of their ids among the stack's positions
    second: int | None  # of the ids of their remainders, where their tables are split
    width: int  # of one pooled vector


@dataclasses.dataclass(frozen=True)
class Stack:
    """Tables of one width in one variable.

    Arrays by name have an entry for each position of a lookup: `size`: the column's vocabulary size, `oov`: its OOV id (-1:
    contributes nothing), `hashed`, `divisor`, `modulus`, `start`, the table's first row, `rows`, how many it has, and `open`:
    whether its vocabulary is, of which no id is a row by itself: its `size` is 1, the OOV row.
    """

    width: int
    tables: tuple[Table, ...]  # in stacking order
    blocks: tuple[Block, ...]  # columns that look them up
    take: np.ndarray | None  # for each position, its id in `batch["sparse"]`, or `None` where it is that one
    per_position: Mapping[str, np.ndarray]

    @property
    def rows(self) -> int:
        """Rows of the variable."""
        return sum(table.rows for table in self.tables)

    @property
    def positions(self) -> int:
        """Rows looked up for an example."""
        return len(self.per_position["start"])

    @functools.cached_property
    def starts(self) -> dict[str, int]:
        """First row of each table."""
        firsts = np.cumsum([0, *(table.rows for table in self.tables)])
        return {table.name: int(first) for table, first in zip(self.tables, firsts, strict=False)}


def table_widths(who: str, schema: Schema, embedding_dim: int | Mapping[str, int]) -> dict[str, int]:
    """Table name → width, from one number or a mapping that names every table; `ValueError` in the name of `who` for another."""
    names = list(schema.table_sizes)
    if not isinstance(embedding_dim, Mapping):
        embedding_dim = dict.fromkeys(names, embedding_dim)
    if set(embedding_dim) != set(names):
        raise ValueError(
            f"{who}: embedding_dim names the tables {sorted(embedding_dim)}; the schema has {sorted(names)}. Give each table one "
            "width."
        )
    return {name: integer(f"{who}: table {name!r}", "embedding_dim", embedding_dim[name]) for name in names}


def pooled_before(split: bool, operation: str | None) -> bool:
    """Whether rows of a column are weighted and added up before its halves are combined: not if those are multiplied."""
    return not (split and operation == "mult")


def split_tables(
    schema: Schema, widths: Mapping[str, int], split: QuotientRemainder | None, init_scale: float | None
) -> dict[str, tuple[Table, ...]]:
    """The tables that are stored, by logical table: itself, or the two that stand for it.

    The half-width of the initial distribution is `init_scale`, or √(1/rows). Raises `ValueError` for an odd width with
    `operation="concat"`, and where a table has a name that a split table needs.
    """
    stored: dict[str, tuple[Table, ...]] = {}
    for i, (name, size) in enumerate(schema.table_sizes.items()):
        width, half_width = widths[name], math.sqrt(1.0 / size) if init_scale is None else init_scale
        if split is None or not split.splits(size):
            stored[name] = (Table(name, size, width, half_width, (i,)),)
            continue
        if split.operation == "concat":
            if width % 2:
                raise ValueError(
                    f"QuotientRemainder: operation='concat' makes two halves of a vector, but table {name!r} has the odd "
                    f"width {width}; use an even one, or 'mult' or 'add'."
                )
            width //= 2
        half_width = split.half_width(half_width)
        quotients, remainders = split.rows(size)
        stored[name] = (
            Table(f"{name}.quotient", quotients, width, half_width, (i,), divisor=split.collisions),
            Table(f"{name}.remainder", remainders, width, half_width, (i, 1), modulus=split.collisions),
        )
    names = [table.name for tables in stored.values() for table in tables]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"QuotientRemainder: there are two tables {name!r}; rename the column's table.")
    return stored


def stack_tables(schema: Schema, tables: Mapping[str, tuple[Table, ...]], split: QuotientRemainder | None) -> list[Stack]:
    """Tables of `split_tables` by width, which share one variable, in the order in which the schema first names them."""
    by_width: dict[int, list[Table]] = {}
    for parts in tables.values():
        for table in parts:
            by_width.setdefault(table.width, []).append(table)
    concat = split is not None and split.operation == "concat"
    return [_stack(schema, tables, width, stacked, concat) for width, stacked in by_width.items()]


def _stack(schema: Schema, tables: Mapping[str, tuple[Table, ...]], width: int, stacked: list[Table], concat: bool) -> Stack:
    starts = dict(zip((t.name for t in stacked), np.cumsum([0, *(t.rows for t in stacked)]), strict=False))
    members = [(i, c) for i, c in enumerate(schema.categorical) if tables[c.table_name][0].width == width]
    halves = [(i, c) for i, c in members if len(tables[c.table_name]) > 1]
    # First each column's ids, then those of the remainders of tables that are split.
    lookups = [(i, c, tables[c.table_name][half]) for half, columns in enumerate((members, halves)) for i, c in columns]
    take = np.concatenate([np.arange(c.hotness, dtype=np.int32) + schema.offsets[i] for i, c, _ in lookups])
    blocks: list[Block] = []
    first, second = 0, sum(c.hotness for _, c in members)
    for i, c in members:
        halved = len(tables[c.table_name]) > 1
        # Two halves make a vector of the width that was asked for.
        whole = 2 * width if halved and concat else width
        like = (c.hotness, c.combiner, halved, whole)
        last = blocks[-1] if blocks else None
        if last and (last.hotness, last.combiner, last.second is not None, last.width) == like:
            blocks[-1] = dataclasses.replace(last, columns=(*last.columns, i))
        else:
            blocks.append(Block((i,), c.hotness, c.combiner, first, second if halved else None, whole))
        first += c.hotness
        second += c.hotness if halved else 0
    values = [
        (
            1 if c.open else c.vocabulary_size, -1 if c.oov is None else c.oov, c.hashed and c.open is None,
            t.divisor, t.modulus, starts[t.name], t.rows, c.open is not None,
        )
        for _, c, t in lookups
    ]  # fmt: skip
    names = ("size", "oov", "hashed", "divisor", "modulus", "start", "rows", "open")
    hotness = [c.hotness for _, c, _ in lookups]
    per_position = {name: np.repeat(each, hotness) for name, each in zip(names, zip(*values, strict=True), strict=True)}
    same = np.array_equal(take, np.arange(schema.width))
    return Stack(width, tuple(stacked), tuple(blocks), None if same else take, per_position)


def stack_rows(stack: Stack, ids: np.ndarray) -> np.ndarray:
    """Rows of a stack for ids (B, W), int64 (B, positions), -1 where an id contributes nothing: as
    `embeddings.table_rows`, on the host.

    Example:

    >>> layer = kd.layers.EmbeddingCollection(kd.Schema(categorical=[kd.Categorical("a", 3), kd.Categorical("b", 4)]), 2)
    >>> stack_rows(layer.stacks[0], np.array([[2, 3], [-1, 9]])).tolist()
    [[2, 6], [-1, 3]]
    """
    ids = np.asarray(ids, np.int64) if stack.take is None else np.asarray(ids, np.int64)[:, stack.take]
    size, oov, hashed, start = (stack.per_position[name] for name in ("size", "oov", "hashed", "start"))
    rows = np.where((ids >= 0) & (ids < size), ids, np.where(ids == PADDING, PADDING, oov))
    if hashed.any():
        unbounded = hashed & (ids >= 0)
        mixed = (mix(fold(ids[unbounded]).astype(np.uint32)) & np.uint32(LARGEST)).astype(np.int64)
        rows[unbounded] = mixed % np.broadcast_to(size, ids.shape)[unbounded]
    return np.where(rows >= 0, rows + start, PADDING)
