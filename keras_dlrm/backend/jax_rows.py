"""Rows on JAX: gather, sum of duplicates, scatter."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_dlrm.backend.private_keras import in_stateless_scope


def unique(ids: Any, beyond: int) -> tuple[Any, Any]:
    # jnp.unique sorts ids together with their places, which XLA does on one core, six times as long as it sorts ids alone.
    ordered = jnp.sort(ids)
    first = jnp.concatenate([jnp.ones((1,), bool), ordered[1:] != ordered[:-1]])
    unique_ids = jnp.full_like(ids, beyond).at[jnp.cumsum(first) - 1].set(ordered)
    return unique_ids, jnp.searchsorted(unique_ids, ids, method="scan_unrolled")


def take(variable: Any, ids: Any) -> Any:
    return jnp.take(variable.value, ids, axis=0, mode="clip")


def gather(variable: Any, ids: Any) -> Any:
    return jax.lax.stop_gradient(jnp.take(variable.value, ids, axis=0, mode="clip"))


def scatter(variable: Any, ids: Any, rows: Any) -> None:
    variable.assign(variable.value.at[ids].set(rows, mode="drop"))


def within(ids: Any, values: Any, rows: int) -> tuple[Any, Any]:
    return ids, values


def constant(tensor: Any) -> Any:
    return jax.lax.stop_gradient(tensor)


def expand(rows: Any, index: Any) -> Any:
    return jnp.take(rows, index, axis=0)


def sum_by(values: Any, index: Any, count: int) -> Any:
    return jax.ops.segment_sum(values, index, count)


def take_columns(matrix: Any, columns: np.ndarray) -> Any:
    return jnp.take(matrix, columns, axis=1, mode="clip")


@jax.custom_vjp
def _bfloat16_product(x: Any, kernel: Any) -> Any:
    # XLA's fast products of bfloat16 on CPUs (YNNPACK's) have a float32 result; for a bfloat16 one it casts all to float32 and
    # is slower than without bfloat16 (jax 0.10.2).
    return jax.lax.dot(x, kernel, preferred_element_type=jnp.float32).astype(x.dtype)


def _forward(x: Any, kernel: Any) -> Any:
    return _bfloat16_product(x, kernel), (x, kernel)


def _backward(saved: Any, upstream: Any) -> Any:
    x, kernel = saved
    of_x = jax.lax.dot_general(upstream, kernel, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    # Nor are they taken for a transposed first factor, nor for a transposed view. So it is transposed in memory: XLA would undo
    # that, were it not flat behind a barrier.
    flat = jax.lax.optimization_barrier(x.T.reshape(-1))
    return of_x.astype(x.dtype), _bfloat16_product(flat.reshape(x.shape[::-1]), upstream)


_bfloat16_product.defvjp(_forward, _backward)


def project(x: Any, kernel: Any) -> Any:
    if x.dtype != "bfloat16" or kernel.dtype != "bfloat16" or isinstance(x, keras.KerasTensor) or jax.default_backend() != "cpu":
        return keras.ops.matmul(x, kernel)
    return _bfloat16_product(x.reshape(-1, x.shape[-1]), jnp.asarray(kernel)).reshape(*x.shape[:-1], kernel.shape[-1])


def memory(variable: Any) -> tuple[int, int] | None:
    value = variable.value
    here = value.is_fully_addressable and {d.platform for d in value.devices()} == {"cpu"} and len(value.devices()) == 1
    return (value.unsafe_buffer_pointer(), value.nbytes) if here else None


def precise_sum(high: Any, low: Any) -> Any:
    return high + low if in_stateless_scope() else np.float64(high) + np.float64(low)


def read(variable: Any, start: int, stop: int) -> np.ndarray:
    # Of a plain slice XLA would compile a program for each start.
    rows = jax.lax.dynamic_slice_in_dim(variable.value, np.int32(start), stop - start)
    return np.array(rows, dtype=np.float32)


def _padded(ids: np.ndarray, beyond: int) -> np.ndarray:
    """Row numbers, filled up with one beyond the table to one of a few lengths, for each of which XLA compiles a program."""
    room = 8
    while room < len(ids):
        room *= 8
    padded = np.full(room, beyond, np.int32)
    padded[: len(ids)] = ids
    return padded


_rows_of = jax.jit(functools.partial(jnp.take, axis=0, mode="clip"))


def read_rows(variable: Any, ids: np.ndarray) -> np.ndarray:
    return np.array(_rows_of(variable.value, _padded(ids, variable.shape[0])), dtype=np.float32)[: len(ids)]


@functools.partial(jax.jit, donate_argnums=0)
def _scattered(table: Any, ids: Any, rows: Any) -> Any:
    return table.at[ids].set(rows.astype(table.dtype), mode="drop")


def write_rows(variable: Any, ids: np.ndarray, rows: np.ndarray) -> None:
    padded = _padded(ids, variable.shape[0])
    filled = np.zeros((len(padded), *rows.shape[1:]), np.float32)
    filled[: len(rows)] = rows
    # Donated, so that it is written in place.
    variable.assign(_scattered(variable.value, padded, filled))


@functools.partial(jax.jit, donate_argnums=0)
def _written(table: Any, rows: Any, start: Any) -> Any:
    return jax.lax.dynamic_update_slice_in_dim(table, rows, start, 0)


def is_concrete(x: Any) -> bool:
    return not isinstance(x, (jax.core.Tracer, keras.KerasTensor, jax.ShapeDtypeStruct))


def can_write() -> bool:
    return not in_stateless_scope()


def write(variable: Any, start: int, rows: np.ndarray) -> None:
    # Donated, so that it is written in place.
    variable.assign(_written(variable.value, rows.astype(variable.dtype), start))


def on_tpu() -> bool:
    return jax.default_backend() == "tpu"
