"""`RowAccess`: rows of logical tables, and of their optimizer slots, between two steps."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.backend.private_keras import in_symbolic_scope, index_of
from keras_dlrm.schema.hashing import LARGEST
from keras_dlrm.support.scoped import Scoped

#: The rows themselves, among the values by slot name.
ROWS = ""


#: Whether ids are those that a `BeforeStep` has made: in a step, where there are some.
prepared = Scoped(False)


def require_prepared(name: str) -> None:
    """`RuntimeError` where the layer of this name is trained outside of a step, whose rows nothing makes ready."""
    if not (prepared.value or in_symbolic_scope()):
        raise RuntimeError(
            f"{name}: the steps of kd.models train open vocabularies and host tables, as they make the rows ready; make the model "
            "one of these, or a kd.models.SparseModel, and use fit or train_on_batch."
        )


class RowAccess:
    """Rows of an `EmbeddingCollection`'s logical tables, and of their optimizer slots, by table and number.

    Only the rows that are asked for are read or written. Where a plan shards the tables, each process reads and writes those of
    its parts.

    Args:
        collection: An `EmbeddingCollection`.
        optimizer: The model's `Hybrid` optimizer, or `None` before `compile`: then there are no slots.
    """

    def __init__(self, collection: Any, optimizer: Any = None) -> None:
        self.collection = collection
        self._rule: Any = getattr(optimizer, "rows", None)
        # By variable, which many tables share: what `slots` and `_held` have.
        self._specs: dict[int, dict[str, tuple[tuple[int, ...], float]]] = {}
        self._known: dict[int, dict[str, Any]] = {}

    def slots(self, table: str) -> dict[str, tuple[tuple[int, ...], float]]:
        """Slots of a table by name: shape of a row's, `(D,)` or `()`, and initial value. None of a table that does not train."""
        for shard, variable, _ in self.collection.store.parts(table):
            if self._held(variable):
                if id(variable) not in self._specs:
                    specs = self._rule.slots((shard.rows, shard.width), True)
                    self._specs[id(variable)] = {name: (tuple(s[1:]), float(initial)) for name, (s, initial) in specs.items()}
                return self._specs[id(variable)]
        return {}

    def read(self, table: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Values of rows of a table: `{ROWS: float32 (n, D), slot name: float32 (n, D) or (n,)}`.

        Args:
            table: Name of a logical table.
            rows: int32 (n,), numbers of its rows. Those that another process has are 0.
        """
        width = self.collection.table_shapes[table][1]
        shapes = {ROWS: (width,), **{name: shape for name, (shape, _) in self.slots(table).items()}}
        values = {name: np.zeros((len(rows), *shape), np.float32) for name, shape in shapes.items()}
        for shard, variable, first in self.collection.store.parts(table):
            here = (rows >= shard.start) & (rows < shard.stop)
            for name, held in {ROWS: variable, **self._held(variable)}.items():
                part = backend.read_rows(held, rows[here] - shard.start + first)
                if part.ndim > 1:
                    values[name][here, shard.first : shard.last] = part
                else:
                    values[name][here] = part
        return values

    def write(self, tables: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]]) -> None:
        """Replace rows of tables and of their slots: one write for each variable, however many tables are in it.

        Args:
            tables: By name of a logical table the numbers of its rows, int32 (n,), all different, and what `read` gives for them,
                or some of it.
        """
        writes: dict[int, tuple[Any, list[np.ndarray], list[np.ndarray]]] = {}
        for table, (rows, values) in tables.items():
            for shard, variable, first in self.collection.store.parts(table):
                here = (rows >= shard.start) & (rows < shard.stop)
                if not here.any():
                    continue
                numbers = rows[here] - shard.start + first
                for name, held in {ROWS: variable, **self._held(variable)}.items():
                    if name in values:
                        part = np.asarray(values[name], np.float32)[here]
                        _, places, parts = writes.setdefault(id(held), (held, [], []))
                        places.append(numbers)
                        parts.append(part[:, shard.first : shard.last] if part.ndim > 1 else part)
        for held, places, parts in writes.values():
            backend.write_rows(held, np.concatenate(places), np.concatenate(parts))

    def _held(self, variable: Any) -> dict[str, Any]:
        """Slots of a table's variable, by name."""
        if self._rule is None or not self._rule.built or not variable.trainable:
            return {}
        if id(variable) not in self._known:
            self._known[id(variable)] = dict(self._rule.held_slots[index_of(self._rule, variable)])
        return self._known[id(variable)]


class BeforeStep(Protocol):
    """Change of a batch, and of rows, right before a step: an entry of `EmbeddingCollection.before_steps`.

    It runs in the thread that consumes the batches, once for each, in their order, also before steps that only evaluate or
    predict; Keras's look at a batch to build a model is no step.
    """

    def __call__(self, ids: np.ndarray, rows: RowAccess, training: bool) -> np.ndarray:
        """Ids (B, W) of a packed batch as the tables of this moment have them.

        Args:
            ids: Integer (B, W), as the batch came.
            rows: Access to the rows.
            training: Whether the step trains.

        Returns:
            Integer (B, W): `row_code(row)` where an id was given a row, and the other ids as they were.
        """


def row_code(rows: np.ndarray) -> np.ndarray:
    """Rows of a table as negative ids -3 - row, which a collection takes for these rows; int32, as the rows are.

    -1 is padding, and -2 an id that is out of range.

    Example:

    >>> row_code(np.array([0, 7], np.int32)).tolist()
    [-3, -10]
    """
    return -3 - rows


def coded_rows(ids: Any, rows: Any, size: Any) -> Any:
    """Rows of a table where ids are `row_code`s, and elsewhere the `rows` (B, W) of the ids, with the tables' sizes (W,)."""
    row = ops.minimum(ops.cast(ops.minimum(-3 - ids, int(LARGEST)), "int32"), ops.convert_to_tensor(size - 1, "int32"))
    return ops.where(ids < -2, row, rows)


class HostArray:
    """One array of what a `BeforeStep` knows, with a variable's face, as checkpoints take it.

    Args:
        owner: Has `state`, arrays by name, and `restore`, which takes them.
        name: Which one.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name, self.path = owner, name, name

    @property
    def value(self) -> np.ndarray:
        """The array, a copy."""
        return self.owner.state()[self.name]  # type: ignore[no-any-return]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, the same at any time."""
        return self.value.shape

    def assign(self, value: Any) -> None:
        """Replace it."""
        self.owner.restore({**self.owner.state(), self.name: value})
