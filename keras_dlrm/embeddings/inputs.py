"""Tensors of a packed batch as layers and models read them: dense, ids as integers that fit, known width."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.embeddings.table_rows import fold
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.hashing import LARGEST
from keras_dlrm.schema.packing import ids_dtype, narrow
from keras_dlrm.schema.schema import Schema

# Tensors of TensorFlow and JAX that are not dense, by name: their frameworks may not be there.
_NOT_DENSE = ("RaggedTensor", "RaggedTensorSpec", "SparseTensor", "SparseTensorSpec", "BCOO", "BCSR", "CSR", "CSC", "COO")
_FLAGS = ("is_sparse", "is_sparse_csr", "sparse", "ragged")  # torch's, and a KerasTensor's


def is_dense(values: Any) -> bool:
    """Whether a tensor or array of any framework, SciPy's included, or a `KerasTensor` is neither sparse nor ragged.

    Example:

    >>> is_dense(np.zeros(3)), is_dense(keras.KerasTensor((3,), sparse=True))
    (True, False)
    """
    if type(values).__name__ in _NOT_DENSE or hasattr(values, "tocoo"):
        return False
    for flag in _FLAGS:  # in each step: a generator takes three times as long
        if getattr(values, flag, None) is True:
            return False
    return True


def check_dense(name: str, values: Any) -> None:
    """`TypeError` in the name of `name` where a tensor is sparse or ragged."""
    if not is_dense(values):
        raise TypeError(
            f"{name} is a {type(values).__name__}, which is sparse or ragged; give a dense tensor, of ids with -1 as padding (such "
            "as x.to_tensor(-1) of a RaggedTensor, tf.sparse.to_dense(x, -1) of a SparseTensor)."
        )


def of_width(who: str, name: str, values: Any, width: int) -> Any:
    """A tensor of a packed batch by its name, its width known from here on: `TypeError` for no dense one, `ValueError` for another.

    TensorFlow's may have no static width or rank; those are checked when they are there. `who` is empty or ends with ": ".
    """
    check_dense(f"{who}batch[{name!r}]", values)
    values = backend.with_width(values, width)
    _check_width(who, name, values.shape, width)
    return values


def check_array(who: str, name: str, values: Any, width: int) -> None:
    """`of_width`'s errors and those of ids, for an array before a model has it; a shape that is not known is not checked."""
    check_dense(f"{who}batch[{name!r}]", values)
    shape = getattr(values, "shape", None)
    if shape is not None and getattr(shape, "rank", 2) is not None:
        _check_width(who, name, [width if n is None else n for n in shape], width)
    if name == "sparse" and shape is not None:
        _check_integer(keras.backend.standardize_dtype(values.dtype))


def input_widths(schema: Schema) -> dict[str, int]:
    """Widths of a packed batch's arrays by name."""
    widths = {"dense": schema.n_dense, "sparse": schema.width, "weights": schema.width}
    return {name: widths[name] for name in schema.input_names}


def _check_width(who: str, name: str, shape: Sequence[int], width: int) -> None:
    if len(shape) != 2 or shape[1] != width:
        raise ValueError(f"{who}batch[{name!r}] has shape {tuple(shape)}; the schema needs (B, {width}).")


def _check_integer(dtype: str) -> None:
    if "int" not in dtype:
        raise TypeError(f"batch['sparse'] has dtype {dtype}; ids must be integers (int32 or int64).")


def signed(ids: Any) -> Any:
    """Unsigned ids of 32 or 64 bits as int64, or int32 on JAX, which has no int64 unless asked for. None turns negative."""
    dtype, wide = keras.backend.standardize_dtype(ids.dtype), "int32" if keras.backend.backend() == "jax" else "int64"
    most = np.array(min(np.iinfo(wide).max, np.iinfo(dtype).max), dtype)
    return ops.cast(ops.minimum(ids, ops.convert_to_tensor(most)), wide)


def ids_and_weights(inputs: Any, schema: Schema) -> tuple[Any, Any]:
    """Ids (B, W), int32 or int64, and their weights (B, W) or `None`, of a packed batch or of ids alone.

    `TypeError` for ids that are not integers, or a tensor that is not dense; `ValueError` for other shapes, or no ids.
    """
    weights = None
    if isinstance(inputs, Mapping):
        if "sparse" not in inputs:
            raise ValueError(f"batch: 'sparse' is missing; the schema needs {list(schema.input_names)}.")
        weights = inputs.get("weights")
        inputs = inputs["sparse"]
    check_dense("batch['sparse']", inputs)
    sparse = ops.convert_to_tensor(inputs)
    dtype = keras.backend.standardize_dtype(sparse.dtype)
    _check_integer(dtype)
    sparse = of_width("", "sparse", sparse, schema.width)
    if dtype in ("uint32", "uint64"):
        sparse = signed(sparse)
    elif dtype not in ("int32", "int64"):
        sparse = ops.cast(sparse, "int32")
    if weights is not None:
        check_dense("batch['weights']", weights)
        weights = of_width("", "weights", ops.convert_to_tensor(weights), schema.width)
    return sparse, weights


def map_ids(function: Callable[[np.ndarray], np.ndarray], inputs: Any, schema: Schema) -> Any:
    """Inputs in any structure, on the host, with what a function makes of their ids, integer (B, W)."""

    def of_leaf(leaf: Any) -> Any:
        shape: Any = getattr(leaf, "shape", ())
        if len(shape) != 2 or shape[1] != schema.width or "int" not in str(leaf.dtype):
            return leaf
        return function(np.asarray(leaf) if hasattr(leaf, "tree_flatten") else ops.convert_to_numpy(leaf))

    return keras.tree.map_structure(of_leaf, inputs)


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
        if isinstance(x, np.ndarray):
            return self.tensor(x)
        return keras.tree.map_structure(lambda ids: self.tensor(ids) if isinstance(ids, np.ndarray) else ids, x)

    def batch(self, batch: Any) -> Any:
        """An element of a data source: inputs, alone or first of a tuple."""
        return (self.arrays(batch[0]), *batch[1:]) if isinstance(batch, tuple) else self.arrays(batch)

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
        if (dtype.name if isinstance(ids, np.ndarray) else keras.backend.standardize_dtype(dtype)) not in _WIDE:
            return None
        # Those of an open vocabulary are looked up on the host, before a step.
        fitting = (schema for schema in self.schemas if schema.width == shape[1] and ids_dtype(schema.categorical) == np.int32)
        return next(fitting, None)
