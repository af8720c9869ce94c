"""`EmbeddingCollection`: all embedding tables of a model in one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.embeddings.hashing import bucket
from keras_dlrm.embeddings.inputs import ids_and_weights
from keras_dlrm.embeddings.not_finite import is_finite
from keras_dlrm.embeddings.sharded_tables import ShardedTables
from keras_dlrm.embeddings.whole_tables import WholeTables
from keras_dlrm.initializers import ReferenceProjection, StackedTables, new_seed
from keras_dlrm.schema.hashing import LARGEST
from keras_dlrm.schema.schema import PADDING, Schema
from keras_dlrm.sharding.active import current
from keras_dlrm.sharding.compression import QuotientRemainder
from keras_dlrm.sharding.stacking import Block, Stack, pooled_before, split_tables, stack_tables
from keras_dlrm.support.arguments import integer, number

_CHECKED = 2**16
TABLE_DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable("keras_dlrm")
class EmbeddingCollection(keras.layers.Layer):
    """Ids of all sparse columns (B, W) → one pooled vector per column (B, F, D).

    Tables of equal width lie stacked in one variable, so that a batch costs one lookup rather than one per column.
    Outside, tables are *logical*: by name, with as many rows as their vocabulary.

    An id of -1 is padding and contributes nothing; any other id outside `0 … vocabulary_size - 1` is looked up as the
    column's OOV row (`Categorical.oov`), or contributes nothing where that is `None`. That is the same on every
    backend, but for ids that do not fit in int32: of those JAX keeps the low 32 bits before a layer sees them. (The
    models see to it where they are given NumPy batches.) `schema.pack` refuses all such ids before they get here. Ids
    of a hashed column (`Categorical.hashed`) are unbounded; they are hashed to rows here.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D, or a mapping table name → width (then give `output_dim`, or `concatenate=True`, if widths
            differ).
        concatenate: Whether to give (B, Σ D) instead of (B, F, D).
        init_scale: Rows are drawn from U(-s, s) with s = √(1/rows) per table, as the reference does; a number fixes s.
        seed: Seed of the initial rows; a fresh one if omitted.
        output_dim: Width D that tables of another width are projected to, each by a matrix of its own without a bias
            (mixed dimensions, see `mixed_dimensions`).
        quotient_remainder: `QuotientRemainder`, or a mapping of its arguments: large tables are stored as two small ones,
            which are *logical* tables called `name.quotient` and `name.remainder`.
        table_dtype: `"float32"`, or `"bfloat16"`: half the memory. Row rules compute in float32 and round new rows
            stochastically: up or down with the probabilities that keep their expectation, so that small updates are not
            lost.

    Call arguments:
        inputs: A packed batch: `{"sparse": int (B, W)}`, optionally with `"weights"` (B, W); or the ids alone.

    Raises:
        ValueError: widths that cannot be stacked; more rows of one width than an int32 counts.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("C1", 10), kd.Categorical("tags", 5, hotness=3)])
    >>> tuple(EmbeddingCollection(schema, 4)({"sparse": np.array([[9, 0, 2, -1]])}).shape)
    (1, 2, 4)
    >>> small = EmbeddingCollection(schema, {"C1": 2, "tags": 4}, output_dim=4, table_dtype="bfloat16")
    >>> tuple(small({"sparse": np.array([[9, 0, 2, -1]])}).shape)
    (1, 2, 4)
    """

    def __init__(
        self,
        schema: Schema | Mapping[str, Any],
        embedding_dim: int | Mapping[str, int] = 16,
        concatenate: bool = False,
        init_scale: float | None = None,
        seed: int | None = None,
        output_dim: int | None = None,
        quotient_remainder: QuotientRemainder | Mapping[str, Any] | None = None,
        table_dtype: str = "float32",
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
        self.output_dim = None if output_dim is None else integer("EmbeddingCollection", "output_dim", output_dim)
        self.quotient_remainder = None if quotient_remainder is None else QuotientRemainder.of(quotient_remainder)
        if table_dtype not in TABLE_DTYPES:
            raise ValueError(f"EmbeddingCollection: table_dtype={table_dtype!r} is unknown; use one of {TABLE_DTYPES}.")
        self.table_dtype = table_dtype
        parts = split_tables(self.schema, self.widths, self.quotient_remainder, self.init_scale)
        self.stacks = stack_tables(self.schema, parts, self.quotient_remainder)
        # One projection for all tables of a width.
        self.projected = {
            width: [name for name in self.widths if self.widths[name] == width]
            for width in dict.fromkeys(self.widths.values())
            if self.output_dim not in (None, width)
        }
        if len(set(self.widths.values())) > 1 and not (concatenate or output_dim):
            raise ValueError(
                f"EmbeddingCollection: embedding_dim gives the widths {sorted(set(self.widths.values()))}, which cannot "
                "be stacked to (B, F, D); use one width, output_dim=… or concatenate=True."
            )
        for stack in self.stacks:
            # Both int32 on JAX; on the others int32 halves the memory traffic of ids.
            if stack.rows > LARGEST:
                raise ValueError(
                    f"EmbeddingCollection: the tables of width {stack.width} have {stack.rows} rows together; at most "
                    f"{LARGEST} fit one stack. Give some tables another width or hash their ids."
                )
        self.store: Any = self.make_store()
        self.projections: dict[str, Any] = {}
        # Keras then leaves a model with this layer uncompiled, on GPUs too, where it compiles by default.
        self.supports_jit = backend.UNDER_XLA
        if self.sharded is not None:
            self.build()  # now, while the plan is in use

    def make_store(self) -> Any:
        """What holds the tables and looks their rows up: whole ones, or this process's parts under a plan."""
        plan = current()
        if plan is None:
            return WholeTables(self.stacks, self.operation)
        return ShardedTables(self.stacks, self.operation, plan)

    def require_whole(self, who: str) -> None:
        """Raise where a plan shards the tables.

        Args:
            who: What needs them whole.

        Raises:
            ValueError: it does.
        """
        if self.sharded is not None:
            raise ValueError(
                f"{who}: the model's tables are sharded over {self.sharded.plan.world_size}; save a checkpoint "
                "(kd.checkpoint.save), and restore it into a model that was built without a plan."
            )

    @property
    def operation(self) -> str | None:
        """What makes one vector of the two rows of a split table; `None` where none is split."""
        return None if self.quotient_remainder is None else self.quotient_remainder.operation

    @property
    def positions(self) -> list[int]:
        """For each stack of tables, how many rows of it an example looks up."""
        return [stack.positions for stack in self.stacks]

    def initial_rows(self, stack: Stack) -> StackedTables:
        """What draws the rows of one of the `stacks`: the same ones whenever it is asked."""
        return StackedTables(
            [table.rows for table in stack.tables],
            [table.number for table in stack.tables],
            [table.half_width for table in stack.tables],
            self.seed,
        )

    @property
    def tables(self) -> list[Any]:
        """The variables of the tables: one for each stack, or for each group of a sharding plan."""
        return self.store.variables

    @property
    def sharded(self) -> ShardedTables | None:
        """The tables, if a plan shards them."""
        return self.store if isinstance(self.store, ShardedTables) else None

    def build(self, input_shape: Any = None) -> None:
        if getattr(self, "built", False):
            return
        self.store.build(self)
        for width, names in self.projected.items():
            self.projections[str(width)] = self.add_weight(
                name=f"projections_{width}",
                shape=(len(names), width, self.output_dim),
                initializer=ReferenceProjection([self.seed, width, 2]),
                dtype="float32",
            )
        self.built = True

    def lookups(self, inputs: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """What a batch asks of each stack.

        Returns:
            Lists with an entry for each stack, all (B, positions): rows of the tables, or -1; weights, 1 where there are
            none and 0 on padding, or `None` where pooling needs none; what the rows are multiplied with, or `None`.
        """
        sparse, weights = ids_and_weights(inputs, self.schema)
        asked, factors, sent = [], [], []
        for stack in self.stacks:
            ids, factor = sparse, weights
            if stack.take is not None:
                ids = ops.take(sparse, stack.take, axis=1)
                factor = None if weights is None else ops.take(weights, stack.take, axis=1)
            rows = _table_rows(stack, ids)
            real = rows >= 0
            if factor is not None:
                # Not a product: a weight of NaN or infinity on padding must not reach the sum. Elsewhere both make NaN of it,
                # as a ReLU would make 0 of minus infinity.
                factor = ops.cast(factor, "float32")
                factor = ops.where(is_finite(factor), factor, float("nan"))
                factor = ops.where(real, factor, ops.zeros_like(factor))
            elif any(block.combiner != "sum" and block.hotness > 1 for block in stack.blocks):
                factor = ops.cast(real, "float32")
            asked.append(rows)
            factors.append(factor)
            sent.append(None if weights is None else self._weights_of_rows(stack, factor))
        return asked, factors, sent

    def pooled(self, inputs: Any, asked: list[Any], sent: list[Any], training: bool | None) -> list[list[Any]]:
        """For each stack and block the sums of its rows, (B, columns, width), and after them those of its remainders."""
        return self.store.pooled(asked, sent, training)  # type: ignore[no-any-return]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        asked, factors, sent = self.lookups(inputs)
        sums = self.pooled(inputs, asked, sent, training)
        weighted = isinstance(inputs, Mapping) and inputs.get("weights") is not None
        blocks = [
            (block, self._project(block, vectors))
            for stack, factor, parts in zip(self.stacks, factors, sums, strict=True)
            for block, vectors in self._pool(stack, parts, factor, weighted)
        ]
        return ops.cast(self._arrange(blocks), self.compute_dtype)

    def _weights_of_rows(self, stack: Stack, factor: Any) -> Any:
        """Weights, but 1 where two rows are multiplied before they are weighted."""
        late = np.zeros(stack.positions, bool)
        for block in stack.blocks:
            if not self._pooled_before(block):
                n = len(block.columns) * block.hotness
                late[block.first : block.first + n] = True
                if block.second is not None:
                    late[block.second : block.second + n] = True
        return ops.where(ops.convert_to_tensor(late), ops.ones_like(factor), factor) if late.any() else factor

    def _pooled_before(self, block: Block) -> bool:
        return pooled_before(block.second is not None, self.operation)

    def _pool(self, stack: Stack, sums: list[Any], factors: Any, weighted: bool) -> list[tuple[Block, Any]]:
        """Each block of columns and its pooled vectors, (B, columns, width)."""
        pooled, rest = [], iter(sums)
        for block in stack.blocks:
            n, h = len(block.columns), block.hotness
            part = next(rest)
            if block.second is not None:
                part = self._combine(part, next(rest))
            factor = None if factors is None else factors[:, block.first : block.first + n * h]
            if not self._pooled_before(block):
                if weighted:
                    part = part * ops.expand_dims(factor, -1)
                part = ops.sum(ops.reshape(part, (-1, n, h, block.width)), axis=2)
            if block.combiner != "sum" and (h > 1 or weighted):
                factor = ops.reshape(factor, (-1, n, h))
                norm = ops.sum(factor, 2) if block.combiner == "mean" else ops.sqrt(ops.sum(factor * factor, 2))
                part = part * ops.expand_dims(ops.divide_no_nan(ops.ones_like(norm), norm), -1)
            pooled.append((block, part))
        return pooled

    def _combine(self, quotient: Any, remainder: Any) -> Any:
        operation = self.quotient_remainder.operation  # type: ignore[union-attr]
        if operation == "concat":
            return ops.concatenate([quotient, remainder], axis=-1)
        return quotient * remainder if operation == "mult" else quotient + remainder

    def _project(self, block: Block, vectors: Any) -> Any:
        names = self.projected.get(block.width)
        if names is None:
            return vectors
        which = [names.index(self.schema.categorical[i].table_name) for i in block.columns]
        kernel = ops.convert_to_tensor(self.projections[str(block.width)])
        if which != list(range(len(names))):
            kernel = ops.take(kernel, np.array(which, "int32"), axis=0)
        return ops.einsum("bnd,ndo->bno", ops.cast(vectors, kernel.dtype), kernel)

    def _arrange(self, blocks: list[tuple[Block, Any]]) -> Any:
        """Pooled vectors of all blocks in schema order, as the layer gives them."""
        order = [i for block, _ in blocks for i in block.columns]
        if not self.concatenate:
            vectors = _side_by_side([vectors for _, vectors in blocks])
            return vectors if order == sorted(order) else ops.take(vectors, np.argsort(order).astype("int32"), axis=1)
        if order == sorted(order):
            flat = [ops.reshape(v, (-1, v.shape[1] * v.shape[2])) for _, v in blocks]
        else:
            columns = {i: v[:, k] for block, v in blocks for k, i in enumerate(block.columns)}
            flat = [columns[i] for i in sorted(columns)]
        return _side_by_side(flat)

    def count_out_of_range(self, inputs: Any) -> Any:
        """How many ids of a packed batch are neither padding nor inside their column's vocabulary: int32 scalar."""
        sparse, _ = ids_and_weights(inputs, self.schema)
        columns = self.schema.categorical
        wide = np.iinfo(keras.backend.standardize_dtype(sparse.dtype)).max
        last = [wide if c.hashed else int(c.vocabulary_size or 0) - 1 for c in columns]
        most = np.repeat(last, [c.hotness for c in columns])
        wrong = ops.logical_or(sparse < PADDING, sparse > ops.convert_to_tensor(most, sparse.dtype))
        return ops.sum(ops.cast(wrong, "int32"))

    # -- logical tables ----------------------------------------------------------------------------------------------

    def embedding_tables(self) -> dict[str, np.ndarray]:
        """Logical tables: name → float32 (rows, D), copies in schema order."""
        return {name: self.store.read(name) for name in self.table_shapes}

    @property
    def table_shapes(self) -> dict[str, tuple[int, int]]:
        """Rows and width of each logical table, in schema order."""
        tables = sorted((t for stack in self.stacks for t in stack.tables), key=lambda table: table.number)
        return {table.name: (table.rows, table.width) for table in tables}

    def set_embedding_tables(self, tables: Mapping[str, Any]) -> None:
        """Replace the rows of the named tables.

        Args:
            tables: Table name → array (rows, D). Tables that are not named keep their rows.

        Raises:
            KeyError: an unknown table.
            ValueError: a wrong shape; a value that is NaN or infinite, in float32 too.
        """
        known = self.table_shapes
        for name in tables:
            if name not in known:
                raise KeyError(f"set_embedding_tables: unknown table {name!r}; there are {sorted(known)}.")
            if np.shape(tables[name]) != known[name]:
                raise ValueError(
                    f"set_embedding_tables: table {name!r} has shape {np.shape(tables[name])}; it must be {known[name]}."
                )
        for name, rows in tables.items():
            _check_rows(name, rows)
        self._write(tables)

    def _write(self, tables: Mapping[str, Any]) -> None:
        for name, rows in tables.items():
            self.store.write(name, rows)

    def save_own_variables(self, store: Any) -> None:
        for name, rows in self.embedding_tables().items():
            store[_store_key(name)] = rows
        for width, kernel in self.projections.items():
            store[_PROJECTION + width] = ops.convert_to_numpy(kernel)

    def load_own_variables(self, store: Any) -> None:
        names = {_store_key(name): name for name in self.table_shapes}
        kernels = {_PROJECTION + width: kernel for width, kernel in self.projections.items()}
        if set(store.keys()) != set(names) | set(kernels):
            raise ValueError(
                f"EmbeddingCollection: the file has the tables {sorted(store.keys())}, the layer "
                f"{sorted([*names, *kernels])}."
            )
        tables = {name: np.asarray(store[key]) for key, name in names.items()}
        for name, shape in self.table_shapes.items():
            if tables[name].shape != shape:
                raise ValueError(
                    f"EmbeddingCollection: table {name!r} of the file has shape {tables[name].shape}; it must be {shape}."
                )
        self._write(tables)  # NaN and all: what was saved can be looked at
        for key, kernel in kernels.items():
            kernel.assign(np.asarray(store[key]))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = input_shape["sparse"] if isinstance(input_shape, Mapping) else input_shape
        widths = [self.output_dim or self.widths[c.table_name] for c in self.schema.categorical]
        return (shape[0], sum(widths)) if self.concatenate else (shape[0], len(widths), widths[0])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            "embedding_dim": self.embedding_dim,
            "concatenate": self.concatenate,
            "init_scale": self.init_scale,
            "seed": self.seed,
            "output_dim": self.output_dim,
            "quotient_remainder": self.quotient_remainder and dataclasses.asdict(self.quotient_remainder),
            "table_dtype": self.table_dtype,
        }


def _check_rows(name: str, rows: Any) -> None:
    rows = np.asarray(rows)
    for first in range(0, len(rows), _CHECKED):
        with np.errstate(over="ignore"):
            finite = np.isfinite(rows[first : first + _CHECKED].astype(np.float32, copy=False))
        if not finite.all():
            row, place = (int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(
                f"set_embedding_tables: table {name!r} has {rows[first + row, place]} in row {first + row}, place {place}; rows "
                "must be finite float32 numbers. Mend them, or take a model from before training went wrong."
            )


def _table_rows(stack: Stack, ids: Any) -> Any:
    """int32 rows of the tables; -1 where an id contributes nothing."""
    local = _local_ids(stack, ids)
    if all(block.second is None for block in stack.blocks):
        return local
    divisor, modulus = (ops.convert_to_tensor(stack.per_position[name], "int32") for name in ("divisor", "modulus"))
    return ops.where(local >= 0, ops.mod(ops.floor_divide(local, divisor), modulus), PADDING)


def _local_ids(stack: Stack, ids: Any) -> Any:
    """int32 ids inside each column's vocabulary; -1 where an id contributes nothing."""
    size, oov = (ops.convert_to_tensor(stack.per_position[name], "int32") for name in ("size", "oov"))
    known = ops.logical_and(ids >= 0, ids < ops.cast(size, ids.dtype))
    hashed = stack.per_position["hashed"].any()
    if hashed:
        unbounded = ops.convert_to_tensor(stack.per_position["hashed"])
        known = ops.logical_or(known, ops.logical_and(ids >= 0, unbounded))
    # Out-of-range ids are replaced before the cast, so that none is truncated into range.
    inside = ops.where(known, ids, ops.zeros_like(ids))
    local = ops.cast(inside, "int32")
    if hashed:
        local = ops.where(unbounded, bucket(inside, size), local)
    return ops.where(known, local, ops.where(ops.equal(ids, PADDING), PADDING, oov))


def _side_by_side(tensors: list[Any]) -> Any:
    return ops.concatenate(tensors, axis=1) if len(tensors) > 1 else tensors[0]


# No name of a table: in those every "%" is followed by a number.
_PROJECTION = "%projections_"


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
