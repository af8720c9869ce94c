"""The seam for JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

UNDER_XLA = True
REPEATS_ARE_WRONG = False


def unique(ids: Any, beyond: int) -> tuple[Any, Any]:
    return jnp.unique(ids, return_inverse=True, size=ids.shape[0], fill_value=beyond)


def gather(variable: Any, ids: Any) -> Any:
    return jax.lax.stop_gradient(jnp.take(variable.value, ids, axis=0, mode="clip"))


def scatter(variable: Any, ids: Any, rows: Any) -> None:
    variable.assign(variable.value.at[ids].set(rows, mode="drop"))


def constant(tensor: Any) -> Any:
    return jax.lax.stop_gradient(tensor)


def sum_by(values: Any, index: Any, count: int) -> Any:
    return jax.ops.segment_sum(values, index, count)


def densify(gradient: Any) -> Any:
    return gradient
