"""`EmbeddingCollection`: all embedding tables of a model in one layer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.embeddings.host.cached_tables import CachedTables
from keras_dlrm.embeddings.host.host_tables import HostTables
from keras_dlrm.embeddings.inputs import ids_and_weights, map_ids
from keras_dlrm.embeddings.lookup import TableVariable
from keras_dlrm.embeddings.not_finite import check_rows, is_finite
from keras_dlrm.embeddings.open_tables import OpenTables
from keras_dlrm.embeddings.pooling import arrange, pool, project, weights_of_rows
from keras_dlrm.embeddings.row_access import BeforeStep, RowAccess, coded_rows, prepared, require_prepared
from keras_dlrm.embeddings.sharded_tables import ShardedTables
from keras_dlrm.embeddings.table_rows import count_out_of_range, table_rows
from keras_dlrm.embeddings.whole_tables import WholeTables, stands_in
from keras_dlrm.initializers import ReferenceProjection, StackedTables, new_seed
from keras_dlrm.schema.hashing import LARGEST
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.active import current
from keras_dlrm.sharding.compression import QuotientRemainder
from keras_dlrm.sharding.stacking import Block, Stack, split_tables, stack_tables, table_widths
from keras_dlrm.support.arguments import choice, integer, number


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
        host: `HostTables`, or a mapping of its arguments: tables in a file, with a cache of their rows on the device.

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
        self, schema: Schema | Mapping[str, Any], embedding_dim: int | Mapping[str, int] = 16, concatenate: bool = False,
        init_scale: float | None = None, seed: int | None = None, output_dim: int | None = None,
        quotient_remainder: QuotientRemainder | Mapping[str, Any] | None = None, table_dtype: str = "float32",
        host: HostTables | Mapping[str, Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        if not self.schema.categorical:
            raise ValueError("EmbeddingCollection: the schema has no categorical column.")
        self.widths = table_widths("EmbeddingCollection", self.schema, embedding_dim)
        self.embedding_dim = dict(self.widths) if isinstance(embedding_dim, Mapping) else next(iter(self.widths.values()))
        self.concatenate = concatenate
        self.init_scale = None if init_scale is None else number("EmbeddingCollection", "init_scale", init_scale)
        self.seed = new_seed(seed)
        self.output_dim = None if output_dim is None else integer("EmbeddingCollection", "output_dim", output_dim)
        self.quotient_remainder = None if quotient_remainder is None else QuotientRemainder.of(quotient_remainder)
        choice("EmbeddingCollection", "table_dtype", table_dtype, ("float32", "bfloat16"))
        self.table_dtype = table_dtype
        self.host = None if host is None else HostTables.of(host)
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
        # Keras takes the variables of a list among a layer's weights.
        self.table_variables: list[TableVariable] = []
        self.store: Any = self.make_store()
        self.before_steps: list[BeforeStep] = [self.store] if isinstance(self.store, CachedTables) else []
        self.open: OpenTables | None = None
        if any(column.open is not None for column in self.schema.categorical):
            self.open = OpenTables(self.schema, self.stacks, self.seed)
            self.before_steps.append(self.open)
        self.projections: dict[str, Any] = {}
        # Keras then leaves a model with this layer uncompiled, on GPUs too, where it compiles by default.
        self.supports_jit = backend.UNDER_XLA
        if self.sharded is not None:
            self.build()  # now, while the plan is in use

    def make_store(self) -> Any:
        """Holder of the tables, which looks their rows up: whole ones, or this process's parts under a plan."""
        plan = current()
        if self.host is not None and not stands_in():
            self.host.check(self.schema, plan is not None, self.quotient_remainder is not None, self.table_dtype)
            return CachedTables(self.schema, self.stacks, self.operation, self.host)
        if plan is None:
            return WholeTables(self.stacks, self.operation)
        return ShardedTables(self.stacks, self.operation, plan)

    def require_whole(self, who: str) -> None:
        """`ValueError` where a plan shards the tables, which `who` needs whole."""
        if self.sharded is not None:
            raise ValueError(
                f"{who}: the model's tables are sharded over {self.sharded.plan.world_size}; save a checkpoint "
                "(kd.checkpoint.save), and restore it into a model that was built without a plan."
            )

    @property
    def operation(self) -> str | None:
        """Maker of one vector from the two rows of a split table; `None` where none is split."""
        return None if self.quotient_remainder is None else self.quotient_remainder.operation

    def initial_rows(self, stack: Stack) -> StackedTables:
        """Initializer that draws the rows of one of the `stacks`: the same ones whenever it is asked."""
        rows, numbers, half_widths = zip(*((table.rows, table.number, table.half_width) for table in stack.tables), strict=True)
        return StackedTables(rows, numbers, half_widths, self.seed)

    @property
    def tables(self) -> list[Any]:
        """The variables of the tables: one for each stack, or for each group of a sharding plan."""
        return list(self.store.variables)

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

    def add_table(self, name: str, shape: tuple[int, int], initializer: Any = "zeros") -> TableVariable:
        """A weight that holds tables; made while the layer is built."""
        # Under mixed precision a cast of the variable would be a cast of the whole table, at every step.
        table = TableVariable(initializer, shape=shape, dtype=self.table_dtype, autocast=False, name=name)
        self.table_variables.append(table)
        return table

    def lookups(self, inputs: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """Lookups of a batch in each stack, all (B, positions).

        Rows of the tables, or -1; weights, 1 where there are none and 0 on padding, or `None` where pooling needs none; factors of
        the rows, or `None`.
        """
        sparse, weights = ids_and_weights(inputs, self.schema)
        asked, factors, sent = [], [], []
        for stack in self.stacks:
            ids, factor = sparse, weights
            if stack.take is not None:
                ids = ops.take(sparse, stack.take, axis=1)
                factor = None if weights is None else ops.take(weights, stack.take, axis=1)
            if isinstance(self.store, CachedTables):
                rows = self.store.rows_of(stack, ids)
            else:
                rows = table_rows(stack, ids)
                if self.before_steps and prepared.value:
                    rows = coded_rows(ids, rows, stack.per_position["rows"])
                elif self.open is not None:
                    rows = self.open.rows_in_graph(stack, ids, rows)
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
            sent.append(None if weights is None else weights_of_rows(stack, self.operation, factor))
        return asked, factors, sent

    def ready(self, inputs: Any, rows: RowAccess, training: bool) -> Any:
        """Inputs of a step, on the host, with their ids as `before_steps` make them; see `BeforeStep`."""

        def of_step(ids: np.ndarray) -> np.ndarray:
            for step in self.before_steps:
                ids = step(ids, rows, training)
            return ids

        return map_ids(of_step, inputs, self.schema)

    def pooled(self, inputs: Any, asked: list[Any], sent: list[Any], training: bool | None) -> list[list[Any]]:
        """For each stack and block the sums of its rows, (B, columns, width), and after them those of its remainders."""
        return self.store.pooled(asked, sent, training)  # type: ignore[no-any-return]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if training and self.before_steps:
            require_prepared(self.name)
        asked, factors, sent = self.lookups(inputs)
        sums = self.pooled(inputs, asked, sent, training)
        weighted = isinstance(inputs, Mapping) and inputs.get("weights") is not None
        blocks = [
            (block, self._project(block, vectors))
            for stack, factor, parts in zip(self.stacks, factors, sums, strict=True)
            for block, vectors in pool(stack, self.operation, parts, factor, weighted)
        ]
        return ops.cast(arrange(blocks, self.concatenate), self.compute_dtype)

    def _project(self, block: Block, vectors: Any) -> Any:
        names = self.projected.get(block.width)
        if names is None:
            return vectors
        which = [names.index(self.schema.categorical[i].table_name) for i in block.columns]
        return project(vectors, self.projections[str(block.width)], which)

    def count_out_of_range(self, inputs: Any) -> Any:
        """Count of the ids of a packed batch that are neither padding nor inside their column's vocabulary: int32 scalar."""
        return count_out_of_range(ids_and_weights(inputs, self.schema)[0], self.schema)

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
            check_rows(name, rows)
        self._write(tables)

    def _write(self, tables: Mapping[str, Any]) -> None:
        for name, rows in tables.items():
            self.store.write(name, rows)

    def save_own_variables(self, store: Any) -> None:
        for name, rows in self.embedding_tables().items():
            store[_store_key(name)] = rows
        for width, kernel in self.projections.items():
            store[_PROJECTION + width] = ops.convert_to_numpy(kernel)
        for name, array in ({} if self.open is None else self.open.state()).items():
            store[_OPEN + _store_key(name)] = array

    def load_own_variables(self, store: Any) -> None:
        names = {_store_key(name): name for name in self.table_shapes}
        kernels = {_PROJECTION + width: kernel for width, kernel in self.projections.items()}
        open_names = {} if self.open is None else {_OPEN + _store_key(name): name for name in self.open.state()}
        if set(store.keys()) != {*names, *kernels, *open_names}:
            own = sorted([*names, *kernels, *open_names])
            raise ValueError(f"EmbeddingCollection: the file has the tables {sorted(store.keys())}, the layer {own}.")
        tables = {name: np.asarray(store[key]) for key, name in names.items()}
        for name, shape in self.table_shapes.items():
            if tables[name].shape != shape:
                raise ValueError(
                    f"EmbeddingCollection: table {name!r} of the file has shape {tables[name].shape}; it must be {shape}."
                )
        if self.open is not None:
            self.open.restore({name: np.asarray(store[key]) for key, name in open_names.items()})
        self._write(tables)  # NaN and all: what was saved can be looked at
        for key, kernel in kernels.items():
            kernel.assign(np.asarray(store[key]))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = input_shape["sparse"] if isinstance(input_shape, Mapping) else input_shape
        widths = [self.output_dim or self.widths[c.table_name] for c in self.schema.categorical]
        return (shape[0], sum(widths)) if self.concatenate else (shape[0], len(widths), widths[0])

    def get_config(self) -> dict[str, Any]:
        plain = ("embedding_dim", "concatenate", "init_scale", "seed", "output_dim", "table_dtype")
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            **{name: getattr(self, name) for name in plain},
            "quotient_remainder": self.quotient_remainder and dataclasses.asdict(self.quotient_remainder),
            "host": self.host and dataclasses.asdict(self.host),
        }


# No name of a table: in those every "%" is followed by a number.
_PROJECTION, _OPEN = "%projections_", "%open_"


def _store_key(name: str) -> str:
    # "/" would open a group inside the file.
    return name.replace("%", "%25").replace("/", "%2F")
