"""Dropout of ids: in training, rows in which a column's ids are unseen ones."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.embeddings.row_access import row_code
from keras_dlrm.embeddings.table_rows import cross
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.crosses import pairs
from keras_dlrm.schema.schema import Schema


@keras.saving.register_keras_serializable("keras_dlrm")
class IdDropout(keras.layers.Layer):
    """Packed batch → packed batch: in training, a share of the rows (`Categorical.id_dropout`) has unseen ids in a column.

    These are the column's OOV rows, or none (-1) where it has no OOV row. Which rows, is drawn for each column by itself.
    Crossed columns follow what they are made of. So the other columns learn to tell of an item without its id, and the
    OOV row stands for an item that is not known.

    Args:
        schema: A fitted `Schema`.
        seed: Seed of the draws.

    Call arguments:
        inputs: A packed batch with `"sparse"` (B, W).
        training: Without it, the batch is returned as it is.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("item", 10, id_dropout=0.99), kd.Categorical("hour", 24)])
    >>> ids = IdDropout(schema, seed=0)({"sparse": np.full((500, 2), 7, "int32")}, training=True)["sparse"]
    >>> int(ops.convert_to_numpy(ids)[:, 0].sum()) < 7 * 50, int(ops.convert_to_numpy(ids)[:, 1].sum()) == 7 * 500
    (True, True)

    Source: Volkovs, Yu and Poutanen 2017, "DropoutNet: Addressing Cold Start in Recommender Systems".
    """

    def __init__(self, schema: Schema | Mapping[str, Any], seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        columns = self.schema.categorical
        self._shares = np.array([column.id_dropout for column in columns], np.float32)
        self._column = np.repeat(np.arange(len(columns)), [column.hotness for column in columns])
        unseen = [(PADDING, 1) if c.oov is None or c.hashed else (c.oov, c.oov_rows) for c in columns]
        # In a step an open vocabulary's ids are codes of rows, and so is its OOV row, 0.
        unseen = [(int(row_code(np.zeros(1, np.int32))[0]), 1) if c.open else each for c, each in zip(columns, unseen, strict=True)]
        self._first, self._rows = (np.array(values, np.int32)[self._column] for values in zip(*unseen, strict=True))
        self.built = True

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> dict[str, Any]:
        if not training:
            return dict(inputs)
        ids = ops.convert_to_tensor(inputs["sparse"])
        drawn = keras.random.uniform((ops.shape(ids)[0], len(self._shares)), dtype="float32", seed=self.seed_generator)
        dropped = ops.take(drawn < ops.convert_to_tensor(self._shares), self._column, axis=1)  # (B, W)
        dropped = ops.logical_and(dropped, ops.not_equal(ids, PADDING))
        # Unseen values are spread over several OOV rows, where a column has them.
        first, rows = (ops.cast(ops.convert_to_tensor(values), ids.dtype) for values in (self._first, self._rows))
        ids = ops.where(dropped, first + ops.mod(ids, rows), ids)
        columns, offsets = self.schema.categorical, self.schema.offsets
        for number, parents in pairs(columns):
            if any(columns[i].id_dropout for i in parents):
                crossed = cross(columns[number], [(columns[i], ids[:, offsets[i]]) for i in parents])
                place = offsets[number]
                ids = ops.concatenate([ids[:, :place], ops.cast(crossed, ids.dtype)[:, None], ids[:, place + 1 :]], axis=1)
        return {**inputs, "sparse": ids}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "schema": self.schema.to_dict(), "seed": self.seed}
