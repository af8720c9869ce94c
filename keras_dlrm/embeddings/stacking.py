"""Which logical tables share a variable, and where their rows lie in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_dlrm.schema import Categorical, Schema


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive columns of a stack with the same hotness and combiner, pooled by one operation."""

    columns: int
    hotness: int
    combiner: str


@dataclasses.dataclass
class Stack:
    """Logical tables of one width in one variable, and the columns that look them up.

    Attributes:
        width: Embedding width D.
        tables: Table name → (first row, rows).
        columns: Sparse columns of the schema that look up these tables, in schema order.
        positions: Where those columns stand among the schema's sparse columns.
        take: Positions of their ids in `batch["sparse"]`, or `None` where that is all of them.
    """

    width: int
    tables: dict[str, tuple[int, int]]
    columns: list[Categorical]
    positions: list[int]
    take: np.ndarray | None

    @property
    def rows(self) -> int:
        """Rows of the variable."""
        return sum(size for _, size in self.tables.values())

    @property
    def sizes(self) -> list[int]:
        """Rows of each table, in stacking order."""
        return [size for _, size in self.tables.values()]

    def per_id(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each id position: vocabulary size, first row in the variable, and OOV id (-1: contributes nothing)."""
        hotness = [c.hotness for c in self.columns]
        size = np.repeat([self.tables[c.table_name][1] for c in self.columns], hotness)
        start = np.repeat([self.tables[c.table_name][0] for c in self.columns], hotness)
        oov = np.repeat([-1 if c.oov is None else c.oov for c in self.columns], hotness)
        return size, start, oov

    def blocks(self) -> list[Block]:
        """The columns as runs of equal hotness and combiner."""
        runs: list[Block] = []
        for column in self.columns:
            last = runs[-1] if runs else None
            if last and (last.hotness, last.combiner) == (column.hotness, column.combiner):
                runs[-1] = dataclasses.replace(last, columns=last.columns + 1)
            else:
                runs.append(Block(1, column.hotness, column.combiner))
        return runs


def stack_tables(schema: Schema, widths: Mapping[str, int]) -> list[Stack]:
    """Tables of equal width share one variable, in the order in which the schema first names them.

    Args:
        schema: A fitted schema.
        widths: Embedding width by table name.

    Returns:
        One `Stack` per width, in order of first appearance.
    """
    sizes = schema.table_sizes
    stacks = []
    for width in dict.fromkeys(widths[name] for name in sizes):
        tables: dict[str, tuple[int, int]] = {}
        start = 0
        for name, size in sizes.items():
            if widths[name] == width:
                tables[name] = (start, size)
                start += size
        members = [(i, c) for i, c in enumerate(schema.categorical) if c.table_name in tables]
        take = np.concatenate(
            [np.arange(schema.offsets[i], schema.offsets[i] + c.hotness, dtype=np.int32) for i, c in members]
        )
        whole = len(take) == schema.width
        stacks.append(Stack(width, tables, [c for _, c in members], [i for i, _ in members], None if whole else take))
    return stacks
