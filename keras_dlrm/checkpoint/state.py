"""State of a training run: the pieces of tables and slots in this process, and variables that every process has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from keras import ops

from keras_dlrm.backend.private_keras import index_of, layers_in
from keras_dlrm.checkpoint.identity import identity
from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.lookup import is_table
from keras_dlrm.sharding.plan import Shard


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows of a table, or of a slot of it, that lie in this process.

    Attributes:
        kind: `"tables"`, or `"slots/…"` with the slot's name.
        shard: Which rows and columns of the table.
        shape: Of the piece: (rows, columns), or (rows,) of a slot with one number a row.
        variable: Where it lies, from row `first` on.
        first: See `variable`.
        tables: The `WholeTables`, `ShardedTables` or `ServerTables` that read and write it.
    """

    kind: str
    shard: Shard
    shape: tuple[int, ...]
    variable: Any
    first: int
    tables: Any

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start … stop - 1` of the piece: float32."""
        return self.tables.read_rows(self.variable, self.shard.rank, self.first + start, self.first + stop)  # type: ignore[no-any-return]

    def write(self, start: int, rows: np.ndarray) -> None:
        """Replace rows of the piece, from `start` on."""
        self.tables.write_rows(self.variable, self.shard.rank, self.first + start, rows)


def collections_of(model: Any) -> list[Any]:
    """The layers of a model that have tables."""
    return [layer for layer in layers_in(model) if isinstance(layer, EmbeddingCollection)]


@dataclasses.dataclass(frozen=True)
class State:
    """All that a checkpoint has.

    Attributes:
        dense: What every process has, by name.
        pieces: Of tables and slots, those in this process.
        identity: What the model and its optimizers are, see `identity`.
        shared: Whether other processes have other pieces.
    """

    dense: dict[str, Any]
    pieces: list[Piece]
    identity: dict[str, Any]
    shared: bool = False


def state_of(model: Any) -> State:
    """The state of a model in training.

    Raises:
        ValueError: the model is not built; two tables have one name.
    """
    dense = dense_variables(model)
    collections = collections_of(model)
    names = [name for collection in collections for name in collection.table_shapes]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"checkpoint: the model has two tables {name!r}; rename one with Categorical(table=…).")
    own_pieces = [
        piece for collection in collections
        for piece in pieces(collection.store, collection.table_shapes, lambda table: _slots(model, table))
    ]  # fmt: skip
    return State(dense, own_pieces, identity(model), bool(getattr(model, "shared", False)))


def pieces(tables: Any, names: Iterable[str], slots_of: Callable[[Any], Mapping[str, Any]]) -> Iterator[Piece]:
    """All pieces, in this process, of the named tables of a `WholeTables`, `ShardedTables` or `ServerTables`.

    `slots_of` maps a table's variable to its slots by name.
    """
    for name in names:
        for shard, variable, first in tables.parts(name):
            yield Piece("tables", shard, (shard.rows, shard.width), variable, first, tables)
            for slot, held in slots_of(variable).items():
                shape = (shard.rows, *((shard.width,) if len(held.shape) > 1 else ()))
                yield Piece(f"slots/{slot}", shard, shape, held, first, tables)


def _slots(model: Any, table: Any) -> dict[str, Any]:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not table.trainable:
        return {}
    return dict(optimizer.rows.held_slots[index_of(optimizer.rows, table)])


def dense_variables(model: Any) -> dict[str, Any]:
    """Variables that every process has, by names that do not depend on the backend: parameters, generators, the optimizer's own.

    Raises:
        ValueError: the model is not built.
    """
    # A layer that the model does not use stays unbuilt.
    if not model.built or all(is_table(v) for v in model.weights):
        raise ValueError(f"checkpoint: {model.name} is not built; call it on a batch first (model.predict_on_batch(batch)).")
    # keras-rs's variables are none of ours: tables are saved as logical ones.
    tables = {id(v) for collection in collections_of(model) for v in collection.tables}
    others = [v for v in model.weights if not is_table(v) and id(v) not in tables]
    variables = {f"weight_{i}": v for i, v in enumerate(others)}
    weights = {id(v) for v in model.weights}
    states = [v for v in model.non_trainable_variables if id(v) not in weights]
    variables |= {f"generator_{i}": v for i, v in enumerate(states)}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return variables
    variables |= {f"dense_optimizer_{i}": v for i, v in enumerate(optimizer.dense.variables)}
    slots = {id(v) for slots in optimizer.rows.held_slots for v in slots.values()}
    rest = [v for v in optimizer.rows.variables if id(v) not in slots]
    return variables | {f"row_rule_{i}": v for i, v in enumerate(rest)}


def value_of(variable: Any) -> np.ndarray:
    """A variable's value, on any backend; of one that lies on many devices, this process's copy."""
    value = variable.value
    if hasattr(value, "addressable_data"):
        value = value.addressable_data(0)
    # By way of a tensor: of copies that a strategy of TensorFlow keeps, one.
    array = ops.convert_to_numpy(ops.convert_to_tensor(value))
    # Of NumPy's own types: .npz files hold no others.
    return np.array(array) if array.dtype.isbuiltin == 1 else array.astype(np.float32)
