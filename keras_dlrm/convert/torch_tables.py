"""Embedding tables of the reference: whole, or with its quotient–remainder or mixed-dimension trick."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.convert.state_dict import StateDict
from keras_dlrm.sharding.compression import OPERATIONS, QuotientRemainder

_KINDS = ("weight", "weight_q", "embs.weight")


@dataclasses.dataclass(frozen=True)
class TorchTable:
    """A table as the reference has it: vectors of width D.

    Attributes:
        rows: (n, d), d < D where there is a projection; the quotients of a split table.
        projection: (D, d) or `None`.
        remainders: Those of a split table, or `None`.
        size: Number of ids; of a split table whose column is not known the most that its rows stand for.
    """

    rows: np.ndarray
    projection: np.ndarray | None = None
    remainders: np.ndarray | None = None
    size: int = 0


def read(state: StateDict, operation: str, sizes: Sequence[tuple[str, int]] | None) -> tuple[list[TorchTable], int]:
    """The tables of a state_dict and their width D; `ValueError` where shapes do not fit or the operation is unknown.

    Args:
        state: Loses the keys that are read.
        operation: How rows of split tables are combined: the reference's `--qr-operation`.
        sizes: Name and vocabulary of each table of a schema, or `None`.
    """
    who = state.who
    if operation not in OPERATIONS:
        raise ValueError(f"{who}: operation={operation!r} is unknown; the reference's --qr-operation is one of {OPERATIONS}.")
    numbers = [int(n) for kind in _KINDS for n in state.matching(rf"emb_l\.(\d+)\.{kind}")]
    if not numbers:
        raise ValueError(f"{who}: no emb_l.N.weight; is this a DLRM's state_dict?")
    if sizes is not None and len(sizes) != max(numbers) + 1:
        raise ValueError(
            f"{who}: the schema has {len(sizes)} tables, the state_dict {max(numbers) + 1}; give as many sparse columns, each with "
            "a table of its own."
        )
    tables: list[TorchTable] = []
    dim: int | None = None
    for i in range(max(numbers) + 1):
        size = None if sizes is None else sizes[i][1]
        why = "(rows, D) with the width D of the tables before it"
        if sizes is not None:
            why = f"table {sizes[i][0]!r} of the schema, vocabulary_size={size},"
        if f"emb_l.{i}.weight_q" in state:
            tables.append(_split(state, i, operation, dim, size, why))
            width = tables[-1].rows.shape[1] * (2 if operation == "concat" else 1)
        elif f"emb_l.{i}.embs.weight" in state:
            tables.append(_projected(state, i, dim, size, why))
            projection = tables[-1].projection
            width = tables[-1].rows.shape[1] if projection is None else len(projection)
        else:
            rows = _pooled(state, i, state.take(f"emb_l.{i}.weight", (size, dim), why))
            tables.append(TorchTable(rows, size=len(rows)))
            width = rows.shape[1]
        dim = width if dim is None else dim
    return tables, dim or 0


def _projected(state: StateDict, i: int, dim: int | None, size: int | None, why: str) -> TorchTable:
    key = f"emb_l.{i}.proj.weight"
    if key not in state:  # as wide as the others
        rows = _pooled(state, i, state.take(f"emb_l.{i}.embs.weight", (size, dim), why))
        return TorchTable(rows, size=len(rows))
    rows = _pooled(state, i, state.take(f"emb_l.{i}.embs.weight", (size, None), why))
    projection = state.take(key, (dim, rows.shape[1]), f"emb_l.{i}.embs.weight, {rows.shape},")
    if not np.isfinite(projection).all():
        raise ValueError(f"{state.who}: {key!r} holds NaN or infinity; take a checkpoint from before training went wrong.")
    return TorchTable(rows, projection, size=len(rows))


def _split(state: StateDict, i: int, operation: str, dim: int | None, size: int | None, why: str) -> TorchTable:
    if f"v_W_l.{i}" in state:
        raise ValueError(f"{state.who}: 'v_W_l.{i}' weights ids of a quotient–remainder table, which has no counterpart here.")
    width = dim // 2 if dim is not None and operation == "concat" else dim
    remainders = state.take(f"emb_l.{i}.weight_r", (None, width), "the width of the tables before it")
    collisions = len(remainders)
    quotients = None if size is None else -(-size // collisions)
    why = f"{why} with {collisions} collisions"
    rows = state.take(f"emb_l.{i}.weight_q", (quotients, remainders.shape[1]), why)
    return TorchTable(rows, None, remainders, len(rows) * collisions if size is None else size)


def _pooled(state: StateDict, i: int, rows: np.ndarray) -> np.ndarray:
    """Rows with the weights of learned pooling multiplied in."""
    pooling = f"v_W_l.{i}"
    return rows * state.take(pooling, (len(rows),), f"emb_l.{i}, {rows.shape},")[:, None] if pooling in state else rows


def stored(who: str, tables: Mapping[str, TorchTable], operation: str, hotness: Mapping[str, int]) -> dict[str, Any]:
    """Arguments of `Weights`: the tables as a `DLRM` stores them.

    A table that the reference splits stays split where a `DLRM` would split it, too; else it is made whole. `ValueError` where an
    example has several ids (`hotness`, by table) of a table whose rows are multiplied: the reference multiplies their sums.
    """
    split = {name: len(table.remainders) for name, table in tables.items() if table.remainders is not None}
    for name in split:
        if operation == "mult" and hotness[name] > 1:
            raise ValueError(
                f"{who}: table {name!r} is split, its column has up to {hotness[name]} ids, and operation='mult': the reference "
                "multiplies sums of rows, which has no counterpart here. With hotness 1 it has, and so have 'add' and 'concat'."
            )
    if len(set(split.values())) > 1:
        raise ValueError(
            f"{who}: tables are split with {sorted(set(split.values()))} collisions; the reference has one number for all."
        )
    threshold = max((table.size for name, table in tables.items() if name not in split), default=0)
    rule = QuotientRemainder(next(iter(split.values())), operation, threshold) if split else None
    arrays: dict[str, np.ndarray] = {}
    for name, table in tables.items():
        if table.remainders is None:
            arrays[name] = table.rows
        elif rule is not None and rule.splits(table.size):
            arrays[f"{name}.quotient"], arrays[f"{name}.remainder"] = table.rows, table.remainders
        else:
            arrays[name] = _whole(table, operation)
    projections = {name: table.projection for name, table in tables.items() if table.projection is not None}
    return {"tables": arrays, "projections": projections, "quotient_remainder": rule if split.keys() - arrays.keys() else None}


def _whole(table: TorchTable, operation: str) -> np.ndarray:
    remainders: Any = table.remainders
    ids = np.arange(table.size)
    quotient, remainder = table.rows[ids // len(remainders)], remainders[ids % len(remainders)]
    if operation == "concat":
        return np.concatenate([quotient, remainder], axis=1)
    return quotient * remainder if operation == "mult" else quotient + remainder
