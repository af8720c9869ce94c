"""Sides of a two-tower model: the columns of the user's or of the item's, alone and as a part of packed batches."""

from collections.abc import Mapping, Sequence

import numpy as np

from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Schema

Batch = dict[str, np.ndarray]


class Side:
    """Some columns of a schema, and their places in its packed batches.

    Args:
        schema: The whole schema.
        names: Names of the columns.

    Attributes:
        schema: That of these columns alone, in the order of the whole one.
        places: Of `"dense"` and `"sparse"`, the columns that are these, int (n,).

    Example:

    >>> schema = kd.Schema(["age", "price"], [kd.Categorical("user", 10), kd.Categorical("tags", 5, hotness=2)])
    >>> side = Side(schema, ["price", "tags"])
    >>> side.schema.column_names, side.places["sparse"].tolist()
    (('price', 'tags'), [1, 2])
    >>> side.whole({"dense": np.ones((1, 1), np.float32), "sparse": np.array([[3, 4]])})["sparse"].tolist()
    [[-1, 3, 4]]
    """

    def __init__(self, schema: Schema, names: Sequence[str]) -> None:
        self._of = schema
        self.schema = schema.with_columns(
            [column for column in schema.dense if column.name in names],
            [column for column in schema.categorical if column.name in names],
        )
        ranges = zip(schema.categorical, schema.offsets, strict=True)
        sparse = [np.arange(start, start + column.hotness) for column, start in ranges if column.name in names]
        self.places = {
            "dense": np.array([i for i, column in enumerate(schema.dense) if column.name in names], np.int64),
            "sparse": np.concatenate([np.zeros(0, np.int64), *sparse]),
        }

    def cut(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """Packed batch of the whole schema → that of these columns."""
        return {key: np.asarray(batch[key])[:, self.places[key]] for key in self.schema.input_names}

    def whole(self, part: Mapping[str, np.ndarray]) -> Batch:
        """Packed batch of these columns → that of the whole schema, with ids of -1 and numbers of 0 in the others."""
        rows = len(next(iter(part.values())))
        widths = {"dense": self._of.n_dense, "sparse": self._of.width}
        batch = {}
        for key in self._of.input_names:
            fill, dtype = (0, np.float32) if key == "dense" else (PADDING, part.get(key, np.zeros(0, np.int32)).dtype)
            batch[key] = np.full((rows, widths[key]), fill, dtype)
            if key in part:
                batch[key][:, self.places[key]] = part[key]
        return batch

    def preprocessor(self, preprocessor: Preprocessor) -> Preprocessor:
        """The preprocessor of these columns alone, of one of the whole schema."""
        schema = Side(preprocessor.schema, self.schema.column_names).schema
        return Preprocessor(schema, preprocessor.dense_state, preprocessor.vocabularies, preprocessor.csv)
