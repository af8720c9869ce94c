"""Keys of collectives between the replicas of a tf.distribute strategy, each of which traces the same step."""

import itertools
import weakref
from typing import Any

import tensorflow as tf

from keras_dlrm.backend.private_keras import in_symbolic_scope
from keras_dlrm.backend.private_tensorflow import replica_number

# Group keys: below this are those of tf.distribute and of processes that have no scope.
_FIRST = 1 << 24
_ROWS = 1 << 24
_COLLECTIVES = 1 << 12  # of one graph, at most

_groups: dict[tuple[str, ...], tuple[int, list[Any]]] = {}
# Of each graph a number, and how many collectives each replica has put into it. All replicas trace a step into one graph, and
# all workers trace the same graphs in the same order.
_graphs: weakref.WeakKeyDictionary[Any, tuple[int, dict[int, int]]] = weakref.WeakKeyDictionary()
_numbers = itertools.count(1)


def in_step() -> bool:
    """Whether a replica is in its step; not where Keras only asks for shapes, as it does before a model is built.

    `RuntimeError` where neither is so: the model is called as a function.
    """
    if tf.distribute.get_replica_context() is not None:
        return True
    if in_symbolic_scope():
        return False
    raise RuntimeError(
        "a model whose tables are sharded over replicas was called as a function; use fit, evaluate, predict or predict_on_batch."
    )


def replica() -> int:
    """The place of this replica among all; 0 where there is no step."""
    return replica_number(tf.distribute.get_replica_context()) if in_step() else 0


def place_of(strategy: Any) -> tuple[int, int]:
    """This process's place among the workers of a strategy, and how many there are."""
    workers = strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)
    if workers == 1:
        return 0, 1
    resolver = strategy.cluster_resolver
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", ())) if resolver.task_type == "worker" else 0
    return chiefs + resolver.task_id, workers


def rows_of(x: Any) -> Any:
    """The part of a collective's group key that follows the length of the batch, where that is known only as the step runs; else 0.

    TensorFlow keeps the shape that a collective of a group had at first: batches of each length are a group of their own.
    """
    unknown = [i for i, length in enumerate(x.shape.as_list()) if length is None]
    return tf.reduce_prod([tf.shape(x)[i] for i in unknown]) if unknown else 0


def keys(x: Any) -> dict[str, Any]:
    """Keys of the step's next collective, of a tensor that replicas hand over, the same in all of them."""
    strategy = tf.distribute.get_strategy()
    place = replica()
    first, tokens = _group_of(strategy)
    graph = tf.compat.v1.get_default_graph()
    if graph not in _graphs:
        _graphs[graph] = (next(_numbers) * _COLLECTIVES, {})
    start, counts = _graphs[graph]
    counts[place] = counts.get(place, -1) + 1
    return {
        "group_size": strategy.num_replicas_in_sync,
        "group_key": first + rows_of(x),
        "instance_key": start + counts[place],
        # Of each replica: else TensorFlow would have one replica's collectives wait for the end of another's.
        "ordering_token": [tokens[place % len(tokens)]],
    }


def _group_of(strategy: Any) -> tuple[int, list[Any]]:
    """The first of a strategy's group keys, and a resource on each of its devices here that collectives are ordered by."""
    devices = tuple(strategy.extended.worker_devices)
    if devices not in _groups:
        number = len(_groups)
        tokens: list[Any] = []
        for device in devices:
            with tf.init_scope(), tf.device(device):
                name = f"keras_dlrm_order_{number}_{len(tokens)}"
                tokens.append(tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=(), shared_name=name))
        _groups[devices] = (_FIRST + number * _ROWS, tokens)
    return _groups[devices]
