"""Lookup of rows, the tape that records which rows a training step reads, and the update of copied tables."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.support.scoped import Scoped


@dataclasses.dataclass
class Lookup:
    """One lookup of a step: the unique row ids asked of a table, without padding, and those rows, a gradient's leaf.

    Where shapes are static (JAX) unused places at the end of `ids` hold a number beyond the table. `asked` is how many ids
    were looked up, padding and repeated ones among them.
    """

    table: Any
    ids: Any
    rows: Any
    asked: Any = 0


class LookupTape:
    """The lookups of one forward pass, in call order; `leaf(index, rows)` makes rows that can have a gradient."""

    def __init__(self, leaf: Callable[[int, Any], Any]) -> None:
        self.leaf = leaf
        self.lookups: list[Lookup] = []

    def lookup(self, table: Any, ids: Any) -> Any:
        """Rows of a table as `lookup` gives them, from unique rows that are kept as leaves of the gradient."""
        # Padding goes first, and so is the first of the unique ids on every backend: no row that could be updated.
        padding = ops.full((1,), PADDING, dtype=ids.dtype)
        unique_ids, inverse = backend.unique(ops.concatenate([padding, ops.reshape(ids, (-1,))]), table.shape[0])
        unique_ids = unique_ids[1:]
        # In float32 before a gradient is taken: of repeated ids it is a sum.
        rows = ops.cast(gather_rows(table, unique_ids), "float32")
        rows = self.leaf(len(self.lookups), rows)
        self.lookups.append(Lookup(table, unique_ids, rows, ops.shape(inverse)[0] - 1))
        padded = ops.concatenate([ops.zeros((1, table.shape[1]), rows.dtype), rows])
        return backend.expand(padded, ops.reshape(inverse[1:], ops.shape(ids)))


_tape, _by_rows = Scoped(None), Scoped(False)


def taped(tape: Any) -> contextlib.AbstractContextManager[Any]:
    """While this context is open, lookups of trainable tables on this thread go through `tape`.

    A tape whose `every_table` is true gets those of frozen tables, too.
    """
    return _tape.using(tape)


class TableVariable(keras.Variable):
    """A stack of embedding tables: updated row by row, and in a training step read by `lookup` alone.

    Attributes:
        sharded: Whether other processes have other rows in it.
        columns_apart: Whether it has only some columns of a table.
        host: Where it has only cached rows of host tables, their `HostStack`; else `None`.
        sum_copies: Where each process has a copy: `(table, ids, gradient, most) → (ids, gradient)` of all processes, from
            up to `most` rows of each; else `None`.
    """

    sharded = False
    columns_apart = False
    host: Any = None
    sum_copies: Any = None

    @property
    def value(self) -> Any:
        """The whole table."""
        if _tape.value is not None and not _by_rows.value and self.trainable:
            raise RuntimeError(
                f"{self.path}: an embedding table is read as a whole in a training step, which would give it no gradient. Look "
                "rows up through its EmbeddingCollection, or train in a stock keras.Model."
            )
        return super().value


def is_table(variable: Any) -> bool:
    """Whether a variable is a stack of embedding tables, updated row by row, rather than a dense parameter."""
    return isinstance(variable, TableVariable)


def rows_between(variable: Any, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a stack of tables, or of a slot of it, wherever they are: a float32 copy."""
    host = getattr(variable, "host", None)
    rows: np.ndarray = backend.read(variable, start, stop) if host is None else host.read(variable, start, stop)
    return rows


def replace_rows(variable: Any, start: int, rows: np.ndarray) -> None:
    """Replace rows of a stack of tables, or of a slot of it, from `start` on."""
    host = getattr(variable, "host", None)
    if host is None:
        backend.write(variable, start, rows)
    else:
        host.write(variable, start, rows)


def rows_at(variable: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of a stack of tables by their numbers, int64 (n,), wherever they are: float32 (n, D)."""
    host = getattr(variable, "host", None)
    if host is not None:
        return host.read_at(variable, rows)  # type: ignore[no-any-return]
    values = gather_rows(variable, ops.convert_to_tensor(rows.astype(np.int32)))
    return np.asarray(ops.convert_to_numpy(ops.cast(values, "float32")))


def gather_rows(table: Any, ids: Any) -> Any:
    """Rows of a table for ids in range, in its own dtype and without a gradient, which a tape may read."""
    with _by_rows.using(True):
        return backend.gather(table, ids)


class CountingTape:
    """Counts the rows that a forward pass looks up, and gives zeros for them."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}

    def lookup(self, table: Any, ids: Any) -> Any:
        """Zeros in place of the rows."""
        self.rows[id(table)] = self.rows.get(id(table), 0) + math.prod(ids.shape)
        return ops.zeros((*ids.shape, table.shape[1]), "float32")


def goes_to_tape(table: Any) -> bool:
    """Whether a tape takes the lookups of a table on this thread."""
    tape = _tape.value
    return tape is not None and (table.trainable or getattr(tape, "every_table", False))


def lookup(table: Any, ids: Any, training: bool | None = None) -> Any:
    """Rows (*ids.shape, D) of a stacked table, zeros for padding (-1); in training a gradient may be taken for the table."""
    if goes_to_tape(table):
        return _tape.value.lookup(table, ids)
    real = ops.expand_dims(ids >= 0, -1)
    ids = ops.maximum(ids, 0)
    if training and backend.REPEATS_ARE_WRONG:
        unique_ids, inverse = backend.unique(ops.reshape(ids, (-1,)), table.shape[0])
        rows = ops.take(backend.take(table, unique_ids), ops.reshape(inverse, ops.shape(ids)), axis=0)
    else:
        rows = backend.take(table, ids)
    # Not a product: 0 times an infinite row would not be 0.
    return ops.where(real, rows, ops.zeros_like(rows))


def sum_copies(table: Any, ids: Any, gradient: Any, most: int) -> tuple[Any, Any]:
    """Ids that were looked up here in a replicated table, at most `most`, and their gradients → those of all its copies, repeated
    rows summed.
    """
    from keras_dlrm.sharding import collectives  # not loaded by programs of one process

    beyond = table.shape[0]
    room = most - ops.shape(ids)[0]
    ids = ops.concatenate([ids, ops.full((room,), beyond, dtype=ids.dtype)])
    gradient = ops.concatenate([gradient, ops.zeros((room, gradient.shape[1]), gradient.dtype)])
    ids, gradient = collectives.gather(ids), collectives.gather(gradient)
    unique_ids, index = backend.unique(ids, beyond)
    summed: tuple[Any, Any] = backend.within(unique_ids, backend.sum_by(gradient, index, ops.shape(unique_ids)[0]), beyond)
    return summed
