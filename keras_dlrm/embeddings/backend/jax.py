"""The seam for JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

UNDER_XLA = True
REPEATS_ARE_WRONG = False


def unique(ids: Any) -> tuple[Any, Any]:
    return jnp.unique(ids, return_inverse=True, size=ids.shape[0], fill_value=-1)


def gather(variable: Any, ids: Any) -> Any:
    return jax.lax.stop_gradient(jnp.take(variable.value, jnp.maximum(ids, 0), axis=0, mode="clip"))


def scatter(variable: Any, ids: Any, rows: Any) -> None:
    table = variable.value
    # A negative index would wrap to the last row; one past the end is dropped.
    variable.assign(table.at[jnp.where(ids < 0, table.shape[0], ids)].set(rows, mode="drop"))


def sum_by(values: Any, index: Any, count: int) -> Any:
    return jax.ops.segment_sum(values, index, count)


def densify(gradient: Any) -> Any:
    return gradient
