"""Tensors of a packed batch as layers and models read them: dense, ids as integers, known width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.schema.schema import Schema

# Tensors of TensorFlow and JAX that are not dense, by name: their frameworks may not be there.
_NOT_DENSE = ("RaggedTensor", "RaggedTensorSpec", "SparseTensor", "SparseTensorSpec", "BCOO", "BCSR", "CSR", "CSC", "COO")


def is_dense(values: Any) -> bool:
    """Whether a tensor or array of any framework, SciPy's included, or a `KerasTensor` is neither sparse nor ragged.

    Example:

    >>> is_dense(np.zeros(3)), is_dense(keras.KerasTensor((3,), sparse=True))
    (True, False)
    """
    if type(values).__name__ in _NOT_DENSE or hasattr(values, "tocoo"):
        return False
    flags = ("is_sparse", "is_sparse_csr", "sparse", "ragged")  # torch's, and a KerasTensor's
    return not any(getattr(values, flag, None) is True for flag in flags)


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
    if len(values.shape) != 2 or values.shape[1] != width:
        raise ValueError(f"{who}batch[{name!r}] has shape {tuple(values.shape)}; the schema needs (B, {width}).")
    return values


def signed(ids: Any) -> Any:
    """Unsigned ids of 32 or 64 bits as int64, or int32 on JAX, which has no int64 unless asked for. None turns negative."""
    dtype, wide = keras.backend.standardize_dtype(ids.dtype), "int32" if keras.backend.backend() == "jax" else "int64"
    most = np.array(min(np.iinfo(wide).max, np.iinfo(dtype).max), dtype)
    return ops.cast(ops.minimum(ids, ops.convert_to_tensor(most)), wide)


def ids_and_weights(inputs: Any, schema: Schema) -> tuple[Any, Any]:
    """Ids (B, W), int32 or int64, and their weights (B, W) or `None`, of a packed batch or of ids alone.

    Raises:
        TypeError: ids that are no integers; a tensor that is not dense.
        ValueError: other shapes, or no ids.
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
    if "int" not in dtype:
        raise TypeError(f"batch['sparse'] has dtype {dtype}; ids must be integers (int32 or int64).")
    sparse = of_width("", "sparse", sparse, schema.width)
    if dtype in ("uint32", "uint64"):
        sparse = signed(sparse)
    elif dtype not in ("int32", "int64"):
        sparse = ops.cast(sparse, "int32")
    if weights is not None:
        check_dense("batch['weights']", weights)
        weights = of_width("", "weights", ops.convert_to_tensor(weights), schema.width)
    return sparse, weights
