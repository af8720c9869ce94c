"""All embedding tables of a model in one layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.arguments import integer, number
from keras_dlrm.embeddings import backend
from keras_dlrm.embeddings.lookup import lookup
from keras_dlrm.embeddings.stacking import Stack, stack_tables
from keras_dlrm.initializers import StackedTables, new_seed
from keras_dlrm.schema import PADDING, Schema


@keras.saving.register_keras_serializable("keras_dlrm")
class EmbeddingCollection(keras.layers.Layer):
    """Ids of all sparse columns (B, W) → one pooled vector per column (B, F, D).

    Tables of equal width lie stacked in one variable, so that a batch costs one lookup rather than one per column.
    Outside, tables are *logical*: by name, with as many rows as their vocabulary.

    An id of -1 is padding and contributes nothing; any other id outside `0 … vocabulary_size - 1` is looked up as the
    column's OOV row (`Categorical.oov`), or contributes nothing where that is `None`. That is the same on every
    backend, but for ids that do not fit in int32: of those JAX keeps the low 32 bits before a layer sees them. (The
    models see to it where they are given NumPy batches.) `schema.pack` refuses all such ids before they get here.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D, or a mapping table name → width (then `concatenate` must be true if widths differ).
        concatenate: Whether to give (B, Σ D) instead of (B, F, D).
        init_scale: Rows are drawn from U(-s, s) with s = √(1/rows) per table, as the reference does; a number fixes s.
        seed: Seed of the initial rows; a fresh one if omitted.

    Call arguments:
        inputs: A packed batch: `{"sparse": int (B, W)}`, optionally with `"weights"` (B, W); or the ids alone.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("C1", 10), kd.Categorical("tags", 5, hotness=3)])
    >>> tuple(EmbeddingCollection(schema, 4)({"sparse": np.array([[9, 0, 2, -1]])}).shape)
    (1, 2, 4)
    """

    def __init__(
        self,
        schema: Schema | Mapping[str, Any],
        embedding_dim: int | Mapping[str, int] = 16,
        concatenate: bool = False,
        init_scale: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        if not self.schema.categorical:
            raise ValueError("EmbeddingCollection: the schema has no categorical column.")
        self.widths = _widths(self.schema, embedding_dim)
        self.embedding_dim = (
            dict(self.widths) if isinstance(embedding_dim, Mapping) else next(iter(self.widths.values()))
        )
        self.concatenate = concatenate
        self.init_scale = None if init_scale is None else number("EmbeddingCollection", "init_scale", init_scale)
        self.seed = new_seed(seed)
        self.stacks = stack_tables(self.schema, self.widths)
        if len(self.stacks) > 1 and not concatenate:
            raise ValueError(
                f"EmbeddingCollection: embedding_dim gives the widths {sorted(set(self.widths.values()))}, which cannot "
                "be stacked to (B, F, D); use one width or concatenate=True."
            )
        for stack in self.stacks:
            # Both int32 on JAX; on the others int32 halves the memory traffic of ids.
            if stack.rows > np.iinfo(np.int32).max:
                raise ValueError(
                    f"EmbeddingCollection: the tables of width {stack.width} have {stack.rows} rows together; at most "
                    f"{np.iinfo(np.int32).max} fit one stack. Give some tables another width or hash their ids."
                )
        self.tables: list[Any] = []
        # Keras then leaves a model with this layer uncompiled, on GPUs too, where it compiles by default.
        self.supports_jit = backend.UNDER_XLA

    @property
    def positions(self) -> list[int]:
        """For each stack of tables, how many ids of an example are looked up in it."""
        return [sum(c.hotness for c in stack.columns) for stack in self.stacks]

    def build(self, input_shape: Any = None) -> None:
        in_parts = backend.can_write()
        numbers = {name: i for i, name in enumerate(self.schema.table_sizes)}
        for stack in self.stacks:
            initial = StackedTables(stack.sizes, [numbers[name] for name in stack.tables], self.init_scale, self.seed)
            table = self.add_weight(
                name=f"tables_{stack.width}",
                shape=(stack.rows, stack.width),
                initializer="zeros" if in_parts else initial,
                # Under mixed precision a cast of the variable would be a cast of the whole table, at every step.
                autocast=False,
                dtype="float32",
            )
            # Tells the optimizer that this variable is updated row by row.
            table.is_embedding_table = True
            if in_parts:
                # Part by part, so that building a model takes no more memory than its tables.
                for start, rows in initial.parts(stack.width):
                    backend.write(table, start, rows)
            self.tables.append(table)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        sparse, weights = _ids_and_weights(inputs, self.schema)
        pooled = []
        for stack, table in zip(self.stacks, self.tables, strict=True):
            ids, factors = sparse, weights
            if stack.take is not None:
                ids = ops.take(sparse, stack.take, axis=1)
                factors = None if weights is None else ops.take(weights, stack.take, axis=1)
            pooled.append(self._pool(stack, table, ids, factors, training))
        if not self.concatenate:
            return ops.cast(pooled[0], self.compute_dtype)
        columns: list[Any] = [None] * len(self.schema.categorical)
        if len(pooled) == 1:
            flat = ops.reshape(pooled[0], (-1, pooled[0].shape[1] * pooled[0].shape[2]))
        else:
            for stack, vectors in zip(self.stacks, pooled, strict=True):
                for i, position in enumerate(stack.positions):
                    columns[position] = vectors[:, i]
            flat = ops.concatenate(columns, axis=1)
        return ops.cast(flat, self.compute_dtype)

    def _pool(self, stack: Stack, table: Any, ids: Any, weights: Any, training: bool | None) -> Any:
        size, start, oov = (ops.convert_to_tensor(a, "int32") for a in stack.per_id())
        wide = ops.cast(size, ids.dtype)
        known = ops.logical_and(ids >= 0, ids < wide)
        # Out-of-range ids are replaced before the cast, so that none is truncated into range.
        local = ops.cast(ops.where(known, ids, ops.zeros_like(ids)), "int32")
        local = ops.where(known, local, ops.where(ops.equal(ids, PADDING), PADDING, oov))
        real = local >= 0
        rows = ops.cast(lookup(table, ops.where(real, local + start, PADDING), training), "float32")
        factors = ops.cast(real, "float32")
        if weights is not None:
            # Not a product: a weight of NaN or infinity on padding must not reach the sum.
            factors = ops.where(real, ops.cast(weights, "float32"), ops.zeros_like(factors))
            rows = rows * ops.expand_dims(factors, -1)
        pooled = []
        position = 0
        for block in stack.blocks():
            n, h = block.columns, block.hotness
            part, factor = rows[:, position : position + n * h], factors[:, position : position + n * h]
            position += n * h
            if h > 1:
                part = ops.sum(ops.reshape(part, (-1, n, h, stack.width)), axis=2)
            if block.combiner != "sum" and (h > 1 or weights is not None):
                factor = ops.reshape(factor, (-1, n, h))
                norm = ops.sum(factor, 2) if block.combiner == "mean" else ops.sqrt(ops.sum(factor * factor, 2))
                part = part * ops.expand_dims(ops.divide_no_nan(ops.ones_like(norm), norm), -1)
            pooled.append(part)
        return ops.concatenate(pooled, axis=1) if len(pooled) > 1 else pooled[0]

    def count_out_of_range(self, inputs: Any) -> Any:
        """How many ids of a packed batch are neither padding nor inside their column's vocabulary: int32 scalar."""
        sparse, _ = _ids_and_weights(inputs, self.schema)
        sizes = [s for c in self.schema.categorical for s in [c.vocabulary_size] * c.hotness]
        wrong = ops.logical_or(sparse < PADDING, sparse >= ops.convert_to_tensor(np.array(sizes), sparse.dtype))
        return ops.sum(ops.cast(wrong, "int32"))

    # -- logical tables ----------------------------------------------------------------------------------------------

    def embedding_tables(self) -> dict[str, np.ndarray]:
        """Logical tables: name → float32 (rows, D), copies in schema order."""
        found = {}
        for stack, variable in zip(self.stacks, self.tables, strict=True):
            for name, (start, size) in stack.tables.items():
                found[name] = backend.read(variable, start, start + size)
        return {name: found[name] for name in self.schema.table_sizes}

    def set_embedding_tables(self, tables: Mapping[str, Any]) -> None:
        """Replace the rows of the named tables.

        Args:
            tables: Table name → array (rows, D). Tables that are not named keep their rows.

        Raises:
            KeyError: an unknown table.
            ValueError: a wrong shape.
        """
        known = {name: (size, s.width) for s in self.stacks for name, (_, size) in s.tables.items()}
        for name in tables:
            if name not in known:
                raise KeyError(f"set_embedding_tables: unknown table {name!r}; there are {sorted(known)}.")
            if np.shape(tables[name]) != known[name]:
                raise ValueError(
                    f"set_embedding_tables: table {name!r} has shape {np.shape(tables[name])}; it must be {known[name]}."
                )
        for stack, variable in zip(self.stacks, self.tables, strict=True):
            for name, (start, _) in stack.tables.items():
                if name in tables:
                    backend.write(variable, start, np.asarray(tables[name], dtype=np.float32))

    def save_own_variables(self, store: Any) -> None:
        for name, rows in self.embedding_tables().items():
            store[_store_key(name)] = rows

    def load_own_variables(self, store: Any) -> None:
        names = {_store_key(name): name for name in self.schema.table_sizes}
        if set(store.keys()) != set(names):
            raise ValueError(
                f"EmbeddingCollection: the file has the tables {sorted(store.keys())}, the schema {sorted(names)}."
            )
        self.set_embedding_tables({names[key]: np.asarray(store[key]) for key in store.keys()})

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = input_shape["sparse"] if isinstance(input_shape, Mapping) else input_shape
        widths = [self.widths[c.table_name] for c in self.schema.categorical]
        return (shape[0], sum(widths)) if self.concatenate else (shape[0], len(widths), widths[0])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            "embedding_dim": self.embedding_dim,
            "concatenate": self.concatenate,
            "init_scale": self.init_scale,
            "seed": self.seed,
        }


def _store_key(name: str) -> str:
    # "/" would open a group inside the file.
    return name.replace("%", "%25").replace("/", "%2F")


def _widths(schema: Schema, embedding_dim: int | Mapping[str, int]) -> dict[str, int]:
    names = list(schema.table_sizes)
    if isinstance(embedding_dim, Mapping):
        for name in [*names, *embedding_dim]:
            if name not in embedding_dim or name not in names:
                raise ValueError(
                    f"EmbeddingCollection: embedding_dim names the tables {sorted(embedding_dim)}; the schema has "
                    f"{sorted(names)}. Give each table one width."
                )
        widths = {name: embedding_dim[name] for name in names}
    else:
        widths = dict.fromkeys(names, embedding_dim)
    for name, width in widths.items():
        widths[name] = integer(f"EmbeddingCollection: table {name!r}", "embedding_dim", width)
    return widths


def _ids_and_weights(inputs: Any, schema: Schema) -> tuple[Any, Any]:
    weights = None
    if isinstance(inputs, Mapping):
        if "sparse" not in inputs:
            raise ValueError(f"batch: 'sparse' is missing; the schema needs {list(schema.input_names)}.")
        weights = inputs.get("weights")
        inputs = inputs["sparse"]
    sparse = ops.convert_to_tensor(inputs)
    dtype = keras.backend.standardize_dtype(sparse.dtype)
    if "int" not in dtype:
        raise TypeError(f"batch['sparse'] has dtype {dtype}; ids must be integers (int32 or int64).")
    if len(sparse.shape) != 2 or sparse.shape[1] != schema.width:
        raise ValueError(f"batch['sparse'] has shape {tuple(sparse.shape)}; the schema needs (B, {schema.width}).")
    if dtype not in ("int32", "int64"):
        if dtype in ("uint32", "uint64"):
            # Out of any vocabulary, and without a turn to negative numbers.
            sparse = ops.minimum(sparse, ops.convert_to_tensor(np.array(2**31 - 1), dtype))
        sparse = ops.cast(sparse, "int32")
    if weights is not None:
        weights = ops.convert_to_tensor(weights)
        if tuple(weights.shape[1:]) != (schema.width,):
            raise ValueError(
                f"batch['weights'] has shape {tuple(weights.shape)}; the schema needs (B, {schema.width})."
            )
    return sparse, weights
