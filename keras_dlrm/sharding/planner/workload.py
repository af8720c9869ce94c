"""Workload of a training step: tables as they are stored, lookups in them, and other computation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.compression import QuotientRemainder
from keras_dlrm.sharding.layout import vectors
from keras_dlrm.sharding.stacking import Stack, split_tables, stack_tables, table_widths
from keras_dlrm.support.arguments import choice, integer, widths

# Bytes of slots per row: per number of the row, and besides.
SLOTS = {"sgd": (0, 0), "adagrad": (4, 0), "rowwise_adagrad": (0, 4), "adam": (8, 0)}
_TABLE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class TableUse:
    """A stored table and its use by an example."""

    name: str
    logical: str  # the logical table's name: another one where it is split in two
    rows: int
    width: int
    ids: int  # rows looked up for an example
    outputs: int  # vectors that are made of them


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model's training step, as far as placing its tables is concerned. `Workload.of` makes one.

    Attributes:
        tables: Stored tables by name.
        stacks, operation: As `layout` takes them.
        global_batch: Examples of all processes.
        dense_parameters: Trainable numbers outside the tables.
        activations: Numbers that the layers read and write for an example, forward and backward.
        optimizer: Row rule of the tables.
        weighted: Whether batches carry weights of ids.
        number_bytes: Of a number of a table.
        activation_bytes: Of an activation.
        wire_bytes: Of a number of a vector or gradient on its way.
    """

    tables: Mapping[str, TableUse]
    stacks: tuple[Stack, ...]
    operation: str | None
    global_batch: int
    dense_parameters: int
    activations: int
    optimizer: str = "adagrad"
    weighted: bool = False
    number_bytes: int = 4
    activation_bytes: int = 4
    wire_bytes: int = 4

    @classmethod
    def of(
        cls, schema: Schema, embedding_dim: int | Mapping[str, int] = 16, *, global_batch: int = 65536,
        optimizer: str = "adagrad", dense_parameters: int | None = None, activations: int | None = None,
        bottom_mlp: Sequence[int] | None = None, top_mlp: Sequence[int] = (512, 256, 1),
        quotient_remainder: QuotientRemainder | Mapping[str, Any] | None = None, table_dtype: str = "float32",
        half_precision: bool = False,
    ) -> Workload:  # fmt: skip
        """The workload of a DLRM, or of any model whose dense parameters are counted.

        Args:
            schema: A fitted schema.
            embedding_dim: Width of all tables, or table name → width.
            global_batch: Examples of all processes in a step.
            optimizer: Row rule: `"sgd"`, `"adagrad"`, `"rowwise_adagrad"` or `"adam"`.
            dense_parameters: Trainable numbers outside the tables; those of a DLRM with `bottom_mlp` and `top_mlp` if omitted.
            activations: Numbers that the layers read and write for an example; of that DLRM if omitted.
            bottom_mlp: Widths; `[512, 256, 64, D]` if omitted.
            top_mlp: Widths.
            quotient_remainder: How large tables are split.
            table_dtype: `"float32"` or `"bfloat16"`.
            half_precision: Whether activations, and vectors on their way, are of 2 bytes.

        Raises:
            ValueError: an unknown optimizer or table_dtype, widths that do not fit the schema.

        Example:

        >>> work = Workload.of(kd.Schema(categorical=[kd.Categorical("a", 100, hotness=3)]), 8)
        >>> work.tables["a"].ids, work.tables["a"].outputs, work.table_bytes("a")
        (3, 1, 6400)
        """
        name = str(optimizer).strip().lower().replace("-", "_")
        if name not in SLOTS:
            raise ValueError(f"plan: optimizer={optimizer!r} is unknown; use one of {list(SLOTS)}.")
        choice("plan", "table_dtype", table_dtype, list(_TABLE_BYTES))
        if not schema.categorical:
            raise ValueError("plan: the schema has no categorical column, so there is no table to place.")
        by_table = table_widths("plan", schema, embedding_dim)
        split = None if quotient_remainder is None else QuotientRemainder.of(quotient_remainder)
        operation = None if split is None else split.operation
        parts = split_tables(schema, by_table, split, None)
        stacks = stack_tables(schema, parts, split)
        logical = {part.name: name for name, both in parts.items() for part in both}
        asked = {part: [0, 0] for part in logical}
        for stack in stacks:
            for part, positions in vectors(stack, operation):
                asked[part][0] += len(positions)
                asked[part][1] += 1
        uses = {t.name: TableUse(t.name, logical[t.name], t.rows, t.width, *asked[t.name]) for s in stacks for t in s.tables}
        dense, touched = _dense(schema, by_table, bottom_mlp, top_mlp)
        if dense_parameters is not None:
            dense = integer("plan", "dense_parameters", dense_parameters, 0)
        if activations is not None:
            touched = integer("plan", "activations", activations, 0)
        return cls(
            {part: uses[part] for part in logical}, tuple(stacks), operation, integer("plan", "global_batch", global_batch),
            dense, touched, name, schema.weighted, _TABLE_BYTES[table_dtype], *((2, 2) if half_precision else (4, 4)),
        )  # fmt: skip

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Rows and width by stored table."""
        return {name: (table.rows, table.width) for name, table in self.tables.items()}

    @property
    def slot_bytes(self) -> tuple[int, int]:
        """Bytes of a row's slots: per number of the row, and besides."""
        return SLOTS[self.optimizer]

    @property
    def dense_bytes(self) -> int:
        """Dense parameters, their gradients and slots."""
        return self.dense_parameters * (8 + sum(self.slot_bytes))

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of that width and its slots."""
        each, besides = self.slot_bytes
        return width * (self.number_bytes + each) + besides

    def table_bytes(self, name: str) -> int:
        """Bytes of a table and its slots."""
        return self.tables[name].rows * self.row_bytes(self.tables[name].width)


def _dense(
    schema: Schema, by_table: Mapping[str, int], bottom_mlp: Sequence[int] | None, top_mlp: Sequence[int]
) -> tuple[int, int]:
    """Parameters outside the tables of a DLRM, and the numbers that its layers read and write for an example."""
    top = widths("plan", "top_mlp", top_mlp)
    widest = max(by_table.values())
    bottom = widths("plan", "bottom_mlp", bottom_mlp or [512, 256, 64, widest]) if schema.dense else []
    width = bottom[-1] if bottom else widest
    n = len(schema.categorical) + bool(bottom)
    pairs = n * (n - 1) // 2
    layers = [[schema.n_dense, *bottom]] if bottom else []
    layers.append([pairs + (width if bottom else 0), *top])
    parameters = sum((a + 1) * b for sizes in layers for a, b in zip(sizes, sizes[1:], strict=False))
    parameters += sum(w * width for w in by_table.values() if w != width)  # projections
    # Each is written and read forward, and so is its gradient.
    return parameters, 4 * (sum(map(sum, layers)) + n * width + pairs)
