"""Copied tables: every process or replica applies the same update to its copy."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_dlrm import backend


def sum_copies(table: Any, ids: Any, gradient: Any, most: int) -> tuple[Any, Any]:
    """Gradients of the rows of a replicated table → those of all its copies, repeated rows summed.

    Args:
        table: Keras variable (rows, D).
        ids: Row ids that were looked up here.
        gradient: Their gradients.
        most: How many could be at most, in every copy alike.
    """
    from keras_dlrm.sharding import collectives  # not loaded by programs of one process

    beyond = table.shape[0]
    room = most - ops.shape(ids)[0]
    ids = ops.concatenate([ids, ops.full((room,), beyond, dtype=ids.dtype)])
    gradient = ops.concatenate([gradient, ops.zeros((room, gradient.shape[1]), gradient.dtype)])
    ids, gradient = collectives.gather(ids), collectives.gather(gradient)
    unique_ids, index = backend.unique(ids, beyond)
    return backend.within(unique_ids, backend.sum_by(gradient, index, ops.shape(unique_ids)[0]), beyond)
