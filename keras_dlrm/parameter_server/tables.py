"""Embedding tables on parameter servers: looked up and read from there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_dlrm import backend
from keras_dlrm.checkpoint.state import State, dense_variables, identity, pieces
from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.rules.rule import RowRule
from keras_dlrm.parameter_server.placement import Pieces, split
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.sharding.plan import Shard, ShardingPlan

_PART = 1 << 18  # rows that are sent at a time


class Part(NamedTuple):
    """The rows of one stack of tables that one server has, and their slots."""

    rows: tf.Variable
    slots: Mapping[str, tf.Variable]


class Asked(NamedTuple):
    """The part of a lookup that one server answers; tensors are (n,)."""

    server: int
    index: Any  # places of the rows among those of the lookup
    ids: Any  # their numbers in the stack
    local: Any  # their numbers on the server


class ServerLookup(NamedTuple):
    """A lookup: the stack it was of, its unique rows (n, D), a gradient's leaf, and who was asked for which of them."""

    stack: int
    rows: Any
    asked: list[Asked]


class ServerTables:
    """The tables of a collection that was built with `stand_in_tables`; a plan of `for_servers` says who has which rows."""

    def __init__(self, collection: EmbeddingCollection, rule: RowRule, plan: ShardingPlan, devices: Sequence[str]) -> None:
        if collection.host is not None:
            raise ValueError("embedding_options: host does not work with parameter servers, which have the tables; leave it out.")
        self.collection, self.plan, self.devices = collection, plan, list(devices)
        self.pieces: list[Pieces] = split(collection.stacks, plan)
        self._stack_of = {id(table): i for i, table in enumerate(collection.tables)}
        self.held: list[list[Part | None]] = [
            [self._make(stack.width, rows, device, rule) for rows, device in zip(p.rows, devices, strict=True)]
            for stack, p in zip(collection.stacks, self.pieces, strict=True)
        ]

    def _make(self, width: int, rows: int, device: str, rule: RowRule) -> Part | None:
        if not rows:
            return None
        with tf.device(device):
            made = tf.Variable(lambda: tf.zeros((rows, width), self.collection.table_dtype), trainable=False)
            slots = {
                name: tf.Variable(lambda shape=shape, value=value: tf.fill(shape, value), trainable=False)
                for name, (shape, value) in rule.slots((rows, width), table=True).items()
            }
        return Part(made, slots)

    def draw(self) -> None:
        """Give all rows their initial values, the same ones as in a model that is not sharded."""
        for stack, where, held in zip(self.collection.stacks, self.pieces, self.held, strict=True):
            ends = [*where.start[1:], sum(where.rows)]
            for start, rows in self.collection.initial_rows(stack).parts(stack.width, _PART):
                for first, end, server, shift in zip(where.start, ends, where.server, where.shift, strict=True):
                    low, high = max(int(first), start), min(int(end), start + len(rows))
                    if low < high:
                        _scatter(held[server].rows, low + int(shift), rows[low - start : high - start])  # type: ignore[union-attr]

    # -- in a step ---------------------------------------------------------------------------------------------------

    def lookup(self, table: Any, ids: Any, leaf: Callable[[Any], Any]) -> tuple[Any, ServerLookup]:
        """Rows for ids of any shape, zeros for padding, and the lookup that they are from."""
        stack = self._stack_of[id(table)]
        # Padding goes first, and so is the first of the unique ids.
        flat = tf.concat([tf.fill((1,), tf.cast(PADDING, ids.dtype)), tf.reshape(ids, (-1,))], 0)
        unique, inverse = tf.unique(flat)
        rows, asked = self._gather(stack, unique[1:])
        rows = leaf(rows)
        padded = tf.concat([tf.zeros((1, rows.shape[1]), rows.dtype), rows], 0)
        return backend.expand(padded, tf.reshape(inverse[1:], tf.shape(ids))), ServerLookup(stack, rows, asked)

    def _gather(self, stack: int, ids: Any) -> tuple[Any, list[Asked]]:
        """Unique rows in float32, each from its server."""
        where = self.pieces[stack]
        servers = [k for k, part in enumerate(self.held[stack]) if part is not None]
        each = tf.range(tf.size(ids))
        if len(servers) == 1:
            index = {servers[0]: each}
        else:
            owner = tf.gather(where.server, tf.searchsorted(where.start, ids, side="right") - 1)
            index = dict(enumerate(tf.dynamic_partition(each, owner, len(self.devices))))
        asked, rows = [], []
        for k in servers:
            own_ids = tf.gather(ids, index[k])
            with tf.device(self.devices[k]):
                local = own_ids + tf.gather(where.shift, tf.searchsorted(where.start, own_ids, side="right") - 1)
                rows.append(tf.gather(self.held[stack][k].rows, local))  # type: ignore[union-attr]
            asked.append(Asked(k, index[k], own_ids, local))
        stitched = rows[0] if len(rows) == 1 else tf.dynamic_stitch([index[k] for k in servers], rows)
        return tf.stop_gradient(tf.cast(stitched, tf.float32)), asked

    # -- from outside ------------------------------------------------------------------------------------------------

    def read(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """A table in parts: `(first row, rows)`."""
        for shard, variable, first in self.parts(name):
            for at in range(0, shard.rows, _PART):
                stop = min(at + _PART, shard.rows)
                yield shard.start + at, self.read_rows(variable, shard.rank, first + at, first + stop)

    # As `WholeTables` and `ShardedTables`, for checkpoints.

    def parts(self, name: str) -> list[tuple[Shard, tf.Variable, int]]:
        """The parts of a table, each with its variable and first row there."""
        parts = []
        for stack, where, held in zip(self.collection.stacks, self.pieces, self.held, strict=True):
            if name in stack.starts:
                for shard in self.plan.shards(name):
                    start = stack.starts[name] + shard.start
                    piece = np.searchsorted(where.start, start, side="right") - 1
                    part: Any = held[shard.rank or 0]
                    parts.append((shard, part.rows, int(start + where.shift[piece])))
        return parts

    def slots_of(self, variable: tf.Variable) -> Mapping[str, tf.Variable]:
        """The slots of a part's rows, by name."""
        return next(part.slots for held in self.held for part in held if part is not None and part.rows is variable)

    def state(self, model: Any) -> State:
        """All that a checkpoint has, of these tables and of the model that they belong to."""
        return State(dense_variables(model), list(pieces(self, self.plan.shapes, self.slots_of)), identity(model))

    def shape_of(self, name: str) -> tuple[int, int]:
        """Rows and columns of a table."""
        return self.plan.shapes[name]

    def read_rows(self, variable: tf.Variable, owner: int | None, start: int, stop: int) -> np.ndarray:
        """Rows of a part's variable, or of a slot of it: float32."""
        with tf.device(variable.device):
            values = tf.gather(variable, tf.range(start, stop))
        return tf.cast(values, tf.float32).numpy()  # type: ignore[no-any-return]

    def write_rows(self, variable: tf.Variable, owner: int | None, start: int, rows: np.ndarray) -> None:
        """Replace them, from `start` on."""
        _scatter(variable, start, rows)


class ServerTape:
    """Sends lookups to the servers while it is taped; `leaf` maps rows to rows that a gradient can be taken for."""

    every_table = True

    def __init__(self, tables: ServerTables, leaf: Callable[[Any], Any] = lambda rows: rows) -> None:
        self.tables, self.leaf = tables, leaf
        self.lookups: list[ServerLookup] = []

    def lookup(self, table: Any, ids: Any) -> Any:
        """Rows of a table; see `embeddings.lookup.lookup`."""
        vectors, lookup = self.tables.lookup(table, ids, self.leaf)
        self.lookups.append(lookup)
        return vectors


def _scatter(variable: tf.Variable, first: int, values: np.ndarray) -> None:
    with tf.device(variable.device):
        ids = tf.range(first, first + len(values))
        variable.scatter_update(tf.IndexedSlices(tf.cast(values, variable.dtype), ids))
