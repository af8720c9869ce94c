"""`Negatives`, a layer: how often items are drawn, and draws from a catalog of all items."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.embeddings.inputs import ids_and_weights
from keras_dlrm.embeddings.table_rows import column_rows, mix
from keras_dlrm.losses import InBatchSoftmax
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.hashing import LARGEST
from keras_dlrm.schema.packing import narrow
from keras_dlrm.schema.schema import Schema

_RATE = 0.01  # of the moving average of gaps


class Negatives(keras.layers.Layer):
    """State of an `InBatchSoftmax` in a model, as weights that are not trained: saved, restored and replicated with the others.

    With `log_q="streaming"` it has the step and for each item row the step in which it last came, the mean gap between the steps
    in which it came, and the number of these; with counts, their logs. A catalog is kept as it is.

    Args:
        loss: The loss.
        schema: The model's schema.
        item_id: Name of the column that tells items apart.
        seed: Seed of the draws from the catalog.

    Raises:
        ValueError: counts of another number of rows than the table of `item_id` has; a catalog that is not of the schema, or one
            where a vocabulary is open.
    """

    def __init__(self, loss: InBatchSoftmax, schema: Schema, item_id: str, seed: int) -> None:
        super().__init__(name="negatives", dtype="float32")
        self.schema, self.seed = schema, seed
        column = schema.categorical_names.index(item_id)
        self.item_column, self.place = schema.categorical[column], schema.offsets[column]
        self.rows = int(self.item_column.vocabulary_size or 0)
        self.counts: Any = None
        self.catalog: dict[str, Any] = {}
        self.step = self._kept("step", np.zeros(1, np.int32))
        if isinstance(loss.log_q, np.ndarray):
            if len(loss.log_q) != self.rows:
                rows = f"the table of {item_id!r} has {self.rows} rows"
                raise ValueError(f"InBatchSoftmax: log_q has {len(loss.log_q)} counts, and {rows}; give one for each row.")
            counts = np.maximum(loss.log_q, 1.0).astype(np.float64)
            self.counts = self._kept("log_q", np.log(counts / counts.sum()).astype(np.float32))
        elif loss.log_q is not None:
            self.last = self._kept("last", np.zeros(self.rows, np.int32))
            self.gap = self._kept("gap", np.zeros(self.rows, np.float32))
            self.times = self._kept("times", np.zeros(self.rows, np.int32))
        if loss.catalog is not None:
            opened = [column.name for column in schema.categorical if column.open is not None]
            if opened:
                raise ValueError(
                    "InBatchSoftmax: uniform_negatives are drawn within a step, where ids of open vocabularies, as of "
                    f"{opened[0]!r}, have no rows; leave uniform_negatives and catalog out."
                )
            try:
                schema.validate(loss.catalog)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"InBatchSoftmax: catalog: {error}") from error
            for name, values in loss.catalog.items():
                values = narrow(schema.categorical, values) if name == "sparse" else values.astype(np.float32)
                self.catalog[name] = self._kept(f"catalog_{name}", values)
        self.built = True

    def _kept(self, name: str, values: np.ndarray) -> Any:
        variable = self.add_weight(name=name, shape=values.shape, dtype=values.dtype.name, trainable=False, autocast=False)
        variable.assign(values)
        return variable

    def begin(self, training: bool) -> None:
        """Begin a step; only those of training are counted."""
        if training:
            backend.scatter(self.step, ops.zeros((1,), "int32"), backend.gather(self.step, ops.zeros((1,), "int32")) + 1)

    def ids(self, inputs: Mapping[str, Any]) -> Any:
        """Packed batch → its items' ids, (B,)."""
        return ids_and_weights(inputs, self.schema)[0][:, self.place]

    def log_q(self, ids: Any, real: Any, training: bool) -> Any:
        """Log of the probability with which one draw gives each item, float32 (M,), from all items of the batch.

        Args:
            ids: The items' ids, (M,).
            real: Whether each is an item of the batch, bool (M,).
            training: Whether the step counts for the estimate.
        """
        rows = ops.where(real, column_rows(self.item_column, ids), PADDING)
        if self.counts is not None:
            return backend.gather(self.counts, ops.maximum(rows, 0))
        # Padding goes first, and so is the first of the unique rows on every backend.
        unique_rows, inverse = backend.unique(ops.concatenate([ops.full((1,), PADDING, dtype="int32"), rows]), self.rows)
        copies = backend.sum_by(ops.ones((ops.shape(inverse)[0], 1), "float32"), inverse, ops.shape(unique_rows)[0])
        gaps = self._gaps(unique_rows[1:], training)
        # An item is in the batch once in `gap` steps, then with so many copies, each of which is a candidate.
        expected = ops.log(ops.maximum(copies[1:, 0], 1.0)) - ops.log(gaps)
        every = ops.take(ops.concatenate([ops.zeros((1,), "float32"), expected]), inverse[1:], axis=0)
        return every - ops.log(ops.maximum(ops.sum(ops.cast(real, "float32")), 1.0))

    def _gaps(self, rows: Any, training: bool) -> Any:
        """Mean gaps between steps in which the items of unique rows came, float32; of one that never came the number of steps."""
        step = backend.gather(self.step, ops.zeros((1,), "int32"))
        last, gap, times = (backend.gather(each, rows) for each in (self.last, self.gap, self.times))
        if training:
            times = times + 1
            rate = ops.maximum(1.0 / ops.cast(times, "float32"), _RATE)
            gap = gap + rate * (ops.cast(step - last, "float32") - gap)
            for variable, values in ((self.last, ops.zeros_like(last) + step), (self.gap, gap), (self.times, times)):
                backend.scatter(variable, rows, values)
        return ops.where(times > 0, gap, ops.maximum(ops.cast(step, "float32"), 1.0))

    @property
    def catalog_rows(self) -> int:
        """Number of rows of the catalog."""
        return int(self.catalog["sparse"].shape[0])

    def draw(self, n: int) -> dict[str, Any]:
        """A packed batch of n rows of the catalog: each step others, the same ones on every backend."""
        step = backend.gather(self.step, ops.zeros((1,), "int32"))
        mixed = ops.bitwise_and(mix(mix(step + self.seed) + ops.arange(n, dtype="int32")), LARGEST)
        return {name: backend.gather(values, ops.mod(mixed, self.catalog_rows)) for name, values in self.catalog.items()}
