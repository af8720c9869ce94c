"""Tables in a `keras_rs.layers.DistributedEmbedding`, on SparseCores or elsewhere."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.backend.private_keras import add_layer
from keras_dlrm.backend.private_keras_rs import layer_off_sparse_core, tables_on_sparse_core
from keras_dlrm.embeddings.sparse_core.config import config_name, keras_rs_layers
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.plan import Shard
from keras_dlrm.sharding.stacking import Block, Stack, Table


@dataclasses.dataclass(frozen=True)
class Placed:
    """A table inside a stack that is dealt out to SparseCores: row r is on core (r + rotation) mod cores.

    There it is row `offset + r // cores` of that core's part of the stack.
    """

    cores: int  # SparseCores of all devices
    offset: int  # first row of the table on each core
    rotation: int  # core of row 0
    rows: int
    width: int  # of the table; the stack may have more columns

    def where(self, stack_rows: int) -> np.ndarray:
        """For each row of the table its row in the stack, the parts of all cores below each other (`stack_rows` in all)."""
        row = np.arange(self.rows)
        return (row + self.rotation) % self.cores * (stack_rows // self.cores) + self.offset + row // self.cores

    def take(self, stack: np.ndarray) -> np.ndarray:
        """The logical table out of its stack."""
        return stack[self.where(len(stack)), : self.width]

    def put(self, stack: np.ndarray, table: np.ndarray) -> np.ndarray:
        """The stack with the logical table's rows replaced, in place."""
        stack[self.where(len(stack)), : self.width] = table
        return stack


@dataclasses.dataclass(frozen=True)
class Held:
    """A logical table as a checkpoint sees it: not a variable of ours, without slots, which are keras-rs's."""

    table: Table
    trainable: bool = False


class SparseCoreTables:
    """The tables of a `TPUEmbedding`, and lookups of sums of their rows; see `feature_configs` for the configurations by column."""

    def __init__(self, schema: Schema, stacks: Sequence[Stack], configs: Mapping[str, Any], name: str) -> None:
        self.schema = schema
        self.stacks = stacks
        self.configs = dict(configs)
        self.variables: list[Any] = []
        self.sparse_core = any(config.table.placement == "sparsecore" for config in configs.values())
        self.layer = keras_rs_layers().DistributedEmbedding(self.configs, name=name, dtype="float32")

    def build(self, layer: Any) -> None:
        """Make the variables, as those of a layer within `layer`."""
        # Among its layers, but no attribute that Keras would save: files hold logical tables.
        add_layer(layer, self.layer)
        self.layer.build({name: config.input_shape for name, config in self.configs.items()})
        self.variables = list(self.layer.trainable_variables)

    def features(self, asked: Sequence[Any], factors: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Rows and weights of each column, (B, hotness) both; a padding row with weight 0 contributes nothing.

        Args:
            asked: For each stack int32 (B, positions): rows of the tables, or -1.
            factors: For each stack the factors of its rows, (B, positions), or `None`.
        """
        ids, weights = {}, {}
        for stack, rows, factor in zip(self.stacks, asked, factors, strict=True):
            sizes = {table.name: table.rows for table in stack.tables}
            for column, _, first, last in self._columns(stack):
                part = rows[:, first:last]
                real = part >= 0
                ids[column.name] = ops.where(real, part, sizes[column.table_name])
                weight = ops.ones_like(part, "float32") if factor is None else ops.cast(factor[:, first:last], "float32")
                weights[column.name] = ops.where(real, weight, ops.zeros_like(weight))
        return ids, weights

    def _columns(self, stack: Stack) -> Iterator[tuple[Any, Block, int, int]]:
        for block in stack.blocks:
            for k, i in enumerate(block.columns):
                first = block.first + k * block.hotness
                yield self.schema.categorical[i], block, first, first + block.hotness

    def ragged_features(self, asked: Sequence[Any], factors: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The `features` that contribute something: NumPy arrays of an array for each example."""
        ids, weights = (
            {name: ops.convert_to_numpy(value) for name, value in by_column.items()} for by_column in self.features(asked, factors)
        )
        real = {name: value != self.configs[name].table.vocabulary_size - 1 for name, value in ids.items()}
        return (
            {name: _ragged(value.astype(np.int32), real[name]) for name, value in ids.items()},
            {name: _ragged(value, real[name]) for name, value in weights.items()},
        )

    def preprocess(self, asked: Sequence[Any], factors: Sequence[Any], training: bool) -> Any:
        """Input of SparseCore on JAX, from concrete values and outside of compiled functions."""
        return self.layer.preprocess(*self.ragged_features(asked, factors), training=training)

    def pooled(self, asked: Sequence[Any], factors: Sequence[Any], training: bool | None) -> list[list[Any]]:
        """For each stack and block the sums of its rows, (B, columns, width); arguments as of `features`.

        `ValueError` on JAX with SparseCore, whose input is made before the step.
        """
        if self.sparse_core and keras.backend.backend() == "jax":
            raise ValueError(
                "TPUEmbedding: on JAX, SparseCore's input is made of a batch before the step; give the model "
                "layer.preprocess(batch, training=True) in place of the batch."
            )
        ids, weights = self.features(asked, factors)
        return self.by_block(self.layer(ids, weights, training=bool(training)))

    def by_block(self, vectors: Mapping[str, Any]) -> list[list[Any]]:
        """Vectors of the columns, by name, as `pooled` gives them."""
        columns = self.schema.categorical
        return [
            [ops.stack([vectors[columns[i].name] for i in block.columns], axis=1) for block in stack.blocks]
            for stack in self.stacks
        ]

    # -- the tables --------------------------------------------------------------------------------------------------

    def table(self, name: str) -> Table:
        """A table by its name."""
        return next(table for stack in self.stacks for table in stack.tables if table.name == name)

    def shape_of(self, name: str) -> tuple[int, int]:
        """Rows and columns of a table."""
        return self.table(name).rows, self.table(name).width

    def parts(self, name: str) -> list[tuple[Shard, Any, int]]:
        """A table as the one part that it is."""
        table = self.table(name)
        return [(Shard(name, None, 0, table.rows, 0, table.width), Held(table), 0)]

    def read_rows(self, variable: Held, owner: int | None, start: int, stop: int) -> np.ndarray:
        """Rows of a table: float32."""
        return self.read(variable.table.name)[start:stop]

    def write_rows(self, variable: Held, owner: int | None, start: int, rows: np.ndarray) -> None:
        """Replace them, from `start` on."""
        whole = self.read(variable.table.name)
        whole[start : start + len(rows)] = rows
        self.write_all({variable.table.name: whole})

    def read(self, name: str) -> np.ndarray:
        """A table, float32 (rows, width), copied."""
        table = self.table(name)
        return np.array(self._with_padding(table)[: table.rows], np.float32)

    def write_all(self, tables: Mapping[str, Any]) -> None:
        """Replace the rows of the named tables."""
        new = {}
        for name, rows in tables.items():
            whole = np.array(self._with_padding(self.table(name)), np.float32)
            whole[: len(rows)] = rows
            new[config_name(self.table(name))] = whole
        if not self.sparse_core:
            for path, config in self.configs.items():
                if config.table.name in new:
                    layer_off_sparse_core(self.layer, path).embeddings.assign(new[config.table.name])
        elif keras.backend.backend() == "jax":
            # It stacks tables again, and needs all of them for that.
            self.layer.set_embedding_tables({**self.layer.get_embedding_tables(), **new})
        else:
            for name, whole in new.items():
                with self._stack(name) as (place, stack):
                    place.put(stack, whole)

    def _with_padding(self, table: Table) -> np.ndarray:
        if self.sparse_core and keras.backend.backend() == "tensorflow":
            with self._stack(config_name(table)) as (place, stack):
                return place.take(stack)
        return np.asarray(ops.convert_to_numpy(self.layer.get_embedding_tables()[config_name(table)]))

    @contextlib.contextmanager
    def _stack(self, name: str) -> Iterator[tuple[Placed, np.ndarray]]:
        """On TensorFlow, a table's place and the stack that it is in, which is written back if it was changed."""
        engine = tables_on_sparse_core(self.layer)
        layout = engine.embedding_layouts[name]
        shards = engine.embedding_tables[layout.stacked_table_name].values
        before = [shard.numpy() for shard in shards]
        stack = np.concatenate(before)
        yield placed(layout), stack
        for shard, old, new in zip(shards, before, np.split(stack, len(shards)), strict=True):
            if not np.array_equal(old, new):
                shard.assign(new)


def placed(layout: Any) -> Placed:
    """A table's place, from TensorFlow's `SparseCoreTableLayout`."""
    offset, rotation = layout.sparse_core_shard_row_offset, layout.sparse_core_shard_rotation
    return Placed(layout.num_sparse_cores, offset, rotation, *layout.unsharded_shape)


def _ragged(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    rows = np.empty(len(values), object)
    for i, (row, keep) in enumerate(zip(values, real, strict=True)):
        rows[i] = row[keep]
    return rows
