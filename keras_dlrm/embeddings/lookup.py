"""Looking rows up, and taping the lookups of a training step so that only those rows are updated."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

from keras import ops

from keras_dlrm.embeddings import backend


@dataclasses.dataclass
class Lookup:
    """One lookup of a step: the unique row ids asked of a table (-1: no row) and those rows, as a gradient's leaf."""

    table: Any
    ids: Any
    rows: Any


class LookupTape:
    """The lookups of one forward pass, in call order.

    Args:
        leaf: `(index, rows) → rows` that makes the rows something a gradient can be taken for.
    """

    def __init__(self, leaf: Callable[[int, Any], Any]) -> None:
        self.leaf = leaf
        self.lookups: list[Lookup] = []

    def lookup(self, table: Any, ids: Any) -> Any:
        """Rows of a table as `lookup` gives them, from unique rows that are kept as leaves of the gradient."""
        unique_ids, inverse = backend.unique(ops.reshape(ids, (-1,)))
        rows = self.leaf(len(self.lookups), backend.gather(table, unique_ids))
        self.lookups.append(Lookup(table, unique_ids, rows))
        # The gradient of this gather sums the gradients of repeated ids.
        return ops.take(rows, ops.reshape(inverse, ops.shape(ids)), axis=0)


_active = threading.local()


@contextlib.contextmanager
def taped(tape: LookupTape) -> Iterator[LookupTape]:
    """While this context is open, lookups of trainable tables on this thread go through `tape`."""
    previous = getattr(_active, "tape", None)
    _active.tape = tape
    try:
        yield tape
    finally:
        _active.tape = previous


def is_table(variable: Any) -> bool:
    """Whether a variable is a stack of embedding tables, updated row by row, rather than a dense parameter."""
    return getattr(variable, "is_embedding_table", False)


def lookup(table: Any, ids: Any, training: bool | None = None) -> Any:
    """Rows of a stacked table.

    Args:
        table: Keras variable (rows, D).
        ids: Integer tensor of row ids; -1 (no row) gives an arbitrary row that the caller must multiply by 0.
        training: Whether a gradient may be taken for the table.

    Returns:
        (*ids.shape, D).
    """
    tape = getattr(_active, "tape", None)
    if tape is not None and table.trainable:
        return tape.lookup(table, ids)
    ids = ops.maximum(ids, 0)
    if training and backend.REPEATS_ARE_WRONG:
        unique_ids, inverse = backend.unique(ops.reshape(ids, (-1,)))
        return ops.take(ops.take(table, unique_ids, axis=0), ops.reshape(inverse, ops.shape(ids)), axis=0)
    return ops.take(table, ids, axis=0)
