"""Narrowing of wide ids to int32, before a framework truncates them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.embeddings.inputs import signed
from keras_dlrm.embeddings.table_rows import fold
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.hashing import LARGEST
from keras_dlrm.schema.packing import narrow
from keras_dlrm.schema.schema import Schema

_WIDE = ("int64", "uint32", "uint64")


class Narrowing:
    """Wide ids of batches as int32: of a hashed column their fold, else a number that is out of range everywhere.

    JAX has no int64 unless asked for, and a functional model casts to the dtype of its `Input`: both would turn an id
    beyond int32 into another id. Integers (B, W) are ids where W is the width of a schema of the collections that read them.
    """

    def __init__(self, schemas: Sequence[Schema]) -> None:
        self.schemas = schemas

    def arrays(self, x: Any) -> Any:
        """A batch in any structure, with its NumPy ids narrowed; anything else as it is."""
        if not self.schemas or not isinstance(x, (np.ndarray, dict, list, tuple)):
            return x
        return keras.tree.map_structure(self._array, x)

    def batch(self, batch: Any) -> Any:
        """An element of a data source: inputs, alone or first of a tuple."""
        return (self.arrays(batch[0]), *batch[1:]) if isinstance(batch, tuple) else self.arrays(batch)

    def _array(self, ids: Any) -> Any:
        schema = self._schema(ids) if isinstance(ids, np.ndarray) else None
        return ids if schema is None else narrow(schema.categorical, ids)

    def tensor(self, ids: Any) -> Any:
        """A tensor, or an array, that will be cast to int32."""
        schema = self._schema(ids)
        if schema is None:
            return ids
        if isinstance(ids, np.ndarray):
            return narrow(schema.categorical, ids)
        if keras.backend.standardize_dtype(ids.dtype) != "int64":
            ids = signed(ids)
            if keras.backend.standardize_dtype(ids.dtype) == "int32":
                return ids
        hashed = ops.convert_to_tensor(np.repeat([c.hashed for c in schema.categorical], [c.hotness for c in schema.categorical]))
        none = ops.zeros_like(ids)
        fits = ops.logical_and(ids <= LARGEST, ids >= -LARGEST)
        # Not ops.maximum and ops.clip: on torch those of int64 with a Python number are int32.
        folded = fold(ops.where(ids > 0, ids, none))
        folded = ops.where(ops.logical_and(hashed, ids > 0), folded, PADDING - 1)
        return ops.where(fits, ops.cast(ops.where(fits, ids, none), "int32"), folded)

    def _schema(self, ids: Any) -> Schema | None:
        shape: Any = getattr(ids, "shape", ())
        dtype = getattr(ids, "dtype", None)
        if dtype is None or len(shape) != 2:
            return None
        name = str(dtype) if isinstance(ids, np.ndarray) else keras.backend.standardize_dtype(dtype)
        fitting = [schema for schema in self.schemas if schema.width == shape[1]]
        return fitting[0] if name in _WIDE and fitting else None
