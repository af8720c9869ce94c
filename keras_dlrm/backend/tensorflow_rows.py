"""Rows on TensorFlow: gather, sum of duplicates, scatter."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dlrm.backend.private_keras import in_stateless_scope
from keras_dlrm.backend.private_tensorflow import replica_number

# Measured on TensorFlow 2.21: compiled by XLA, one Adagrad step with repeated ids ends at other weights than without.
UNDER_XLA = False
# Keras squares the slices of an IndexedSlices gradient one by one (tf_keras summed repeated ones first).
REPEATS_ARE_WRONG = True
# Strategies whose replicas each call the model on a part of the batch, with a copy of each variable.
_MIRRORS = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)


def unique(ids: Any, beyond: int) -> tuple[Any, Any]:
    return tf.unique(ids)


def take(variable: Any, ids: Any) -> Any:
    # Not of the variable's value: after a scatter TensorFlow copies the whole variable whenever its value is read.
    return tf.gather(_here(variable), ids)


def gather(variable: Any, ids: Any) -> Any:
    # A gather from the resource reads the rows only; reading the variable first would copy the table.
    return tf.stop_gradient(tf.gather(_here(variable), ids))


def scatter(variable: Any, ids: Any, rows: Any) -> None:
    _here(variable).scatter_update(tf.IndexedSlices(rows, ids))


def replicas(strategy: Any = None) -> Any:
    strategy = strategy or tf.distribute.get_strategy()
    return strategy if isinstance(strategy, _MIRRORS) else None


def _here(variable: Any) -> Any:
    """A variable as TensorFlow knows it; of a strategy's copies this replica's, or the first outside of replicas."""
    value = variable.value
    if not isinstance(value, tf.distribute.DistributedValues) or not isinstance(value.distribute_strategy, _MIRRORS):
        return value
    replica = tf.distribute.get_replica_context() if replicas() else None
    place = 0 if replica is None else replica_number(replica) % len(value.values)
    return value.values[place]


def within(ids: Any, values: Any, rows: int) -> tuple[Any, Any]:
    real = ids < rows
    return tf.boolean_mask(ids, real), tf.boolean_mask(values, real)


def constant(tensor: Any) -> Any:
    return tf.stop_gradient(tensor)


@tf.custom_gradient
def expand(rows: Any, index: Any) -> Any:
    def gradient(upstream: Any) -> tuple[Any, None]:
        values = tf.reshape(upstream, (-1, tf.shape(rows)[1]))
        return sum_by(values, tf.reshape(index, (-1,)), tf.shape(rows)[0]), None

    return tf.gather(rows, index), gradient


def sum_by(values: Any, index: Any, count: Any) -> Any:
    # As a product with a sparse matrix of ones: 1.5 ms for 53,000 rows of 16, where unsorted_segment_sum takes 5.
    places = tf.range(tf.size(index, index.dtype), dtype=index.dtype)
    shape = tf.cast(tf.stack([count, tf.size(index)]), tf.int64)
    return tf.raw_ops.SparseTensorDenseMatMul(
        # Not transposed: oneDNN writes an error about integers each time a program does that first.
        a_indices=tf.stack([index, places], axis=1), a_values=tf.ones_like(index, values.dtype), a_shape=shape, b=values
    )


def take_columns(matrix: Any, columns: np.ndarray) -> Any:
    # As rows of the transposed matrix: TensorFlow gathers columns one number at a time.
    return tf.transpose(tf.gather(tf.transpose(matrix), columns))


def unfused(tensor: Any) -> Any:
    # The fused operation of TensorFlow 2.21 on CPUs, of a product, a bias and a ReLU or ReLU6, makes 0 of NaN; the operations by
    # themselves keep it, and so does XLA. Nothing looks through `ensure_shape`, which costs nothing.
    return tensor if isinstance(tensor, keras.KerasTensor) else tf.ensure_shape(tensor, tensor.shape)


def with_width(tensor: Any, width: int) -> Any:
    unknown = tf.is_tensor(tensor) and (tensor.shape.rank is None or None in tensor.shape[1:])
    return tf.ensure_shape(tensor, (None, width)) if unknown else tensor


def memory(variable: Any) -> tuple[int, int] | None:
    if isinstance(variable.value, tf.distribute.DistributedValues) or "CPU" not in variable.value.device:
        return None
    # Neither a read nor a bitcast copies, as long as no gather or scatter has marked the variable.
    value = np.asarray(memoryview(tf.bitcast(variable.value.read_value(), tf.uint8)))
    return value.__array_interface__["data"][0], value.nbytes


def products(a: Any, b: Any) -> Any:
    # tf.einsum makes a batch of products of it, which takes twice as long.
    return tf.matmul(a, b, transpose_b=True)


def precise_sum(high: Any, low: Any) -> Any:
    return tf.cast(high, tf.float64) + tf.cast(low, tf.float64)


def densify(gradient: Any) -> Any:
    return tf.convert_to_tensor(gradient)


def _copies(variable: Any, copy: int | None) -> Any:
    value = variable.value
    copies = value.values if isinstance(value, tf.distribute.DistributedValues) else (value,)
    return copies if copy is None else copies[copy : copy + 1]


def read(variable: Any, start: int, stop: int, copy: int = 0) -> np.ndarray:
    (value,) = _copies(variable, copy)
    # A slice of the variable would copy all of it first; a gather reads the rows asked for.
    return tf.cast(tf.gather(value, tf.range(start, stop)), tf.float32).numpy()


def read_rows(variable: Any, ids: np.ndarray) -> np.ndarray:
    return tf.cast(gather(variable, ids), tf.float32).numpy()


def write_rows(variable: Any, ids: np.ndarray, rows: np.ndarray) -> None:
    scatter(variable, ids, tf.cast(rows, variable.dtype))


def is_concrete(x: Any) -> bool:
    return not isinstance(x, keras.KerasTensor) and not tf.is_symbolic_tensor(x)


def can_write() -> bool:
    return not in_stateless_scope() and tf.executing_eagerly()


def write(variable: Any, start: int, rows: np.ndarray, copy: int | None = None) -> None:
    update = tf.IndexedSlices(tf.cast(rows, variable.dtype), tf.range(start, start + len(rows)))
    for value in _copies(variable, copy):
        value.scatter_update(update)


def on_tpu() -> bool:
    return isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
