"""Tables as an export stores them: kind, kept rows, order; rows that training never touched."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import ml_dtypes
import numpy as np
from keras import ops

from keras_dlrm.embeddings.lookup import rows_at, rows_between
from keras_dlrm.embeddings.quantized import KINDS, dequantize, layout, quantize, row_bytes
from keras_dlrm.sharding.stacking import Stack
from keras_dlrm.support.arguments import choice

CHUNK = 1 << 16


@dataclasses.dataclass(frozen=True, eq=False)
class StoredStack:
    """One stack of tables as it is stored.

    Rows are addressed by *places*. Each table has three more of them than rows, so that an id is brought into range by
    two operations, max(id, -2) and min(id, rows), instead of comparisons and choices: two before its first row, the
    OOV row again (-2, for ids below -1) and zeros (-1, for padding), and one after its last, the OOV row once more. Ids of pruned
    rows are answered as unseen ones are, through a map from places to stored rows.
    """

    variable: Any  # of Keras, (rows, D)
    stack: Stack  # what is in it
    oov: Mapping[str, int | None]  # by table name, the row that unseen ids get, or `None`: zeros
    kind: str  # one of `quantized.KINDS`
    pruned: np.ndarray | None  # which rows of the variable are left out, bool (rows,), or `None`

    @functools.cached_property
    def kept(self) -> int:
        """Rows of the variable that are not left out."""
        return self.stack.rows - (0 if self.pruned is None else int(self.pruned.sum()))

    @property
    def rows(self) -> int:
        """Stored rows, those of padding and OOV places included."""
        return self.places if self.pruned is None else 1 + self.kept

    @property
    def name(self) -> str:
        """Its name in files."""
        return f"tables_{self.stack.width}"

    @property
    def places(self) -> int:
        """Places of all tables."""
        return self.stack.rows + 3 * len(self.stack.tables)

    @property
    def table_places(self) -> np.ndarray:
        """For each table, the place of its row 0: int64 (tables,)."""
        starts = np.array(list(self.stack.starts.values()), np.int64)
        return starts + 3 * np.arange(len(starts)) + 2

    @property
    def first_places(self) -> np.ndarray:
        """For each position of a lookup, the place of its table's row 0: int64 (positions,)."""
        starts = list(self.stack.starts.values())
        return self.table_places[np.searchsorted(starts, self.stack.per_position["start"], side="right") - 1]

    @property
    def layout(self) -> dict[str, tuple[np.dtype, int]]:
        """Arrays that are stored: name → dtype and columns."""
        return layout(self.kind, self.stack.width)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them, and of the map."""
        return self.rows * row_bytes(self.kind, self.stack.width) + (0 if self.pruned is None else 4 * self.places)

    def kept_rows(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Rows of the variable, or of a part, that are not pruned, float32 (n, D), in order; some at a time are in memory."""
        last = self.stack.rows if stop is None else stop
        for first in range(start, last, CHUNK):
            end = min(first + CHUNK, last)
            rows = rows_between(self.variable, first, end)
            yield rows if self.pruned is None else rows[~self.pruned[first:end]]

    def parts(self) -> Iterator[dict[str, np.ndarray]]:
        """Stored arrays by name, with the rows for padding and unseen ids, in parts; a part at a time is in memory."""
        for rows in self._rows_of_places():
            yield quantize(rows, self.kind).arrays

    def _rows_of_places(self) -> Iterator[np.ndarray]:
        none = np.zeros((1, self.stack.width), np.float32)
        if self.pruned is not None:
            yield none
            yield from self.kept_rows()
            return
        for table in self.stack.tables:
            start = self.stack.starts[table.name]
            row = start + (self.oov.get(table.name) or 0)
            unseen = none if self.oov.get(table.name) is None else rows_between(self.variable, row, row + 1)
            yield np.concatenate([unseen, none])
            yield from self.kept_rows(start, start + table.rows)
            yield unseen

    def row_map(self) -> np.ndarray:
        """Kept row that each row of the variable is, or stands for, int32 (rows,); -1: zeros. Only where rows are pruned."""
        if self.pruned is None:
            raise ValueError(f"{self.name}: nothing is pruned, so there is no map.")
        kept_rows = np.cumsum(~self.pruned, dtype=np.int32) - np.int32(1)
        for table in self.stack.tables:
            start, oov = self.stack.starts[table.name], self.oov.get(table.name)
            own = slice(start, start + table.rows)
            kept_rows[own][self.pruned[own]] = -1 if oov is None else kept_rows[start + oov]
        return kept_rows

    def map(self) -> np.ndarray:
        """Place → stored row: int32 (places,). Stored row 0 is zeros, the others are the kept ones in order."""
        rows = self.row_map() + np.int32(1)
        places = np.zeros(self.places, np.int32)
        at = 2
        for table in self.stack.tables:
            start, oov = self.stack.starts[table.name], self.oov.get(table.name)
            places[at : at + table.rows] = rows[start : start + table.rows]
            places[[at - 2, at + table.rows]] = 0 if oov is None else rows[start + oov]
            at += table.rows + 3
        return places

    def dequantized(self, ids: np.ndarray) -> np.ndarray:
        """Rows as the exported model sees them, float32 (n, D), for rows of the variable; -1 gives zeros."""
        ids = np.asarray(ids, np.int64)
        if self.pruned is not None:
            kept = np.append(np.flatnonzero(~self.pruned), -1)
            ids = np.where(ids >= 0, kept[self.row_map()[np.maximum(ids, 0)]], ids)
        values = dequantize(quantize(rows_at(self.variable, np.maximum(ids, 0)), self.kind))
        return np.where(ids[:, None] >= 0, values, np.float32(0))


class StoredTables:
    """All tables of a model as they are stored, and a tape that makes the live model predict with them.

    Args:
        model: A model of `kd.models`.
        kind: One of `quantized.KINDS`; each table's own dtype by default.
        prune: As of `rows_to_prune`. Stacks whose map would be larger than the rows that it saves are left whole.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("a", 3), kd.Categorical("b", 2)])
    >>> tables = StoredTables(kd.models.DLRM(schema, 16, top_mlp=[1]), "int8")
    >>> tables.stacks[0].rows, tables.nbytes  # three more than each table has
    (11, 198)
    """

    #: `lookup` goes through this tape for frozen tables, too.
    every_table = True

    def __init__(self, model: Any, kind: str | None = None, prune: str | Mapping[str, Any] | None = None) -> None:
        if kind is not None:
            choice("export", "tables", kind, KINDS)
        self.stacks: list[StoredStack] = []
        collection = model.embeddings
        if collection is None:
            return
        collection.require_whole("export")
        masks = {} if prune is None else rows_to_prune(collection, prune)
        # No id of a hashed column is unseen: of its tables, and of the two that stand for a split one, no row is like it.
        oov = {c.table_name: c.oov if c.open or not c.hashed else None for c in collection.schema.categorical}
        for stack, variable in zip(collection.stacks, collection.tables, strict=True):
            own = kind or keras.backend.standardize_dtype(variable.dtype)
            mask = np.zeros(stack.rows, bool)
            for name, rows in masks.items():
                if name in stack.starts:
                    mask[stack.starts[name] :][: len(rows)] = rows
            whole = mask.sum() * row_bytes(own, stack.width) <= 4 * stack.rows
            self.stacks.append(StoredStack(variable, stack, oov, own, None if whole else mask))
        self._by_variable = {id(s.variable): s for s in self.stacks}

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(stack.nbytes for stack in self.stacks)

    @property
    def pruned_rows(self) -> int:
        """Rows that are left out."""
        return sum(stack.stack.rows - stack.kept for stack in self.stacks)

    def lookup(self, table: Any, ids: Any) -> Any:
        """Stored rows as `embeddings.lookup.lookup` gives them; not inside a compiled function."""
        flat = ops.convert_to_numpy(ids)
        unique, inverse = np.unique(flat, return_inverse=True)
        rows = self._by_variable[id(table)].dequantized(unique)[inverse.reshape(-1)]
        return ops.convert_to_tensor(rows.reshape(*flat.shape, rows.shape[-1]))


def untrained_rows(collection: Any) -> dict[str, np.ndarray]:
    """Untrained rows by table: bool (rows,), of a built `EmbeddingCollection`.

    A seed draws the same rows on every backend: they are drawn again, part by part, and equal ones are untrained, whatever
    the optimizer. Tables that were set, converted or grown after they were drawn have none.

    Example:

    >>> layer = kd.layers.EmbeddingCollection(kd.Schema(categorical=[kd.Categorical("a", 3)]), 2)
    >>> layer.build()
    >>> layer.set_embedding_tables({"a": [*layer.embedding_tables()["a"][:2], [1.0, 1.0]]})
    >>> untrained_rows(layer)["a"].tolist()
    [True, True, False]
    """
    untrained = {}
    for stack, variable in zip(collection.stacks, collection.tables, strict=True):
        same = np.zeros(stack.rows, bool)
        for start, drawn in collection.initial_rows(stack).parts(stack.width):
            rows = rows_between(variable, start, start + len(drawn))
            if collection.table_dtype != "float32":
                drawn = drawn.astype(getattr(ml_dtypes, collection.table_dtype)).astype(np.float32)
            same[start : start + len(drawn)] = (rows == drawn).all(axis=1)
        for table in stack.tables:
            start = stack.starts[table.name]
            untrained[table.name] = same[start : start + table.rows]
    return untrained


def rows_to_prune(collection: Any, prune: str | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Rows that an export leaves out, by table: bool (rows,).

    An OOV row stays, and so do all rows of a table that is split in two (`QuotientRemainder`): each stands for many ids.

    `prune` is `"untrained"`, or a mapping table name → bool (rows,), true for rows to leave out. `KeyError`, `TypeError` or
    `ValueError` for an unknown table, masks that are not bool, or an unknown word or a mask of the wrong shape.

    Example:

    >>> layer = kd.layers.EmbeddingCollection(kd.Schema(categorical=[kd.Categorical("a", 3)]), 2)
    >>> layer.build()
    >>> rows_to_prune(layer, "untrained")["a"].tolist()  # row 0 is the OOV row
    [False, True, True]
    """
    columns = {c.table_name: c for c in collection.schema.categorical}
    if isinstance(prune, str):
        if prune != "untrained":
            raise ValueError(f"prune={prune!r} is unknown; use 'untrained', or a mapping table name → bool (rows,).")
        masks = {name: mask for name, mask in untrained_rows(collection).items() if name in columns}
    else:
        sizes = {table.name: table.rows for stack in collection.stacks for table in stack.tables}
        masks = {}
        for name, rows in prune.items():
            if name not in columns or name not in sizes:
                allowed = sorted(set(columns) & set(sizes))
                raise KeyError(f"prune: unknown table {name!r}, or one that is split in two; there are {allowed}.")
            mask = np.array(rows)
            if mask.dtype != bool:
                raise TypeError(f"prune: the mask of table {name!r} has dtype {mask.dtype}; it must be bool.")
            if mask.shape != (sizes[name],):
                raise ValueError(f"prune: the mask of table {name!r} has shape {mask.shape}; it must be ({sizes[name]},).")
            masks[name] = mask
    for name, mask in masks.items():
        column = columns[name]
        if column.oov is not None and (column.open or not column.hashed):
            mask[column.oov : column.oov + column.oov_rows] = False
    return masks
