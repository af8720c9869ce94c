"""Collectives of TensorFlow: between processes, or between the replicas of a `strategy.scope()`."""

import itertools
import json
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm import backend as tables
from keras_dlrm.sharding.collectives import tensorflow_replicas as replicas
from keras_dlrm.sharding.meter import meter

CUTS_ROWS = True

# That `start` joined the other processes by, and the one of several workers in whose scope a model was made.
_strategy: Any = None
_scoped: Any = None
# Bytes, counted as steps run: how many rows a batch has is not known before.
_sent: Any = None
# Of all collectives here (and from it on, one for each length of a batch), and other than those of tf.distribute.
_GROUP = 7_654_321
# One for each place of a collective: all workers trace the same functions in the same order.
_instances = itertools.count(1)


def start(timeout: float = 300.0) -> None:
    """Join the workers of `TF_CONFIG`. TensorFlow wants this before anything else is computed."""
    global _strategy, _sent
    if _strategy is not None or len(json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}).get("worker", [])) < 2:
        return
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=timeout)
    # It starts this worker's server and lets the others find it; what is computed stays ours.
    _strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    if threading.current_thread() is threading.main_thread():
        # The coordination service catches SIGTERM and does nothing: what Python has for it is put back.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    _sent = tf.Variable(0, dtype=tf.int64, trainable=False)
    meter.more = lambda: int(_sent.numpy())


def stop() -> None:
    """Nothing: the servers end with their processes."""


def _scope() -> Any:
    """The strategy in whose scope this is, if its replicas are what a plan is for."""
    global _scoped
    strategy = tables.replicas()
    if strategy is not None and replicas.place_of(strategy)[1] > 1:
        _scoped = strategy
    return strategy


def world_size() -> int:
    strategy = _scope() or _strategy
    return 1 if strategy is None else int(strategy.num_replicas_in_sync)


def rank() -> int:
    return replicas.replica() if _scope() else process_rank()


def process_rank() -> int:
    if _strategy is not None:
        return int(_strategy.cluster_resolver.task_id)
    return 0 if _scoped is None else replicas.place_of(_scoped)[0]


def process_count() -> int:
    if _strategy is not None:
        return int(_strategy.num_replicas_in_sync)
    return 1 if _scoped is None else replicas.place_of(_scoped)[1]


def _is_real() -> bool:
    """Whether a collective is meant."""
    return world_size() > 1 and (_scope() is None or replicas.in_step())


def _keys(x: Any) -> dict[str, Any]:
    # No timeout: in TensorFlow 2.21 each collective that has one takes a thread that sleeps so long, even if the collective is
    # done before; after some hundred steps there are no more threads. The strategy itself looks after its workers.
    return replicas.keys(x) if _scope() else _keys_of_processes(x)


def _keys_of_processes(x: Any) -> dict[str, Any]:
    key = _GROUP + replicas.rows_of(x)
    return {"group_size": process_count(), "group_key": key, "instance_key": next(_instances), "ordering_token": []}


def _count(x: Any, factor: int) -> None:
    """Count an N-th of a tensor as sent, `factor` times; in a scope nothing is counted."""
    if _sent is None or _scope():
        return
    each = (tf.size(x, tf.int64) + (world_size() - 1)) // world_size()
    _sent.assign_add(each * x.dtype.size * factor)


def _exchanged(x: Any, keys: dict[str, Any] | None = None) -> Any:
    keys = keys or _keys(x)
    _count(x, keys["group_size"] - 1)
    received = tf.raw_ops.CollectiveAllToAllV2(input=x, communication_hint="auto", is_stateless=False, **keys)
    return tf.ensure_shape(received, x.shape)


@tf.custom_gradient
def _exchange(x: Any) -> Any:
    return _exchanged(x), lambda gradient: _exchanged(gradient)


def exchange(x: Any) -> Any:
    return _exchange(tf.convert_to_tensor(x)) if _is_real() else x


def all_sum(tensors: Sequence[Any]) -> list[Any]:
    if not tensors or not _is_real():
        return list(tensors)
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    flat = tf.concat([tf.reshape(tensor, (-1,)) for tensor in tensors], 0)
    _count(flat, 2 * (world_size() - 1))
    options = {"merge_op": "Add", "final_op": "Id", "communication_hint": "auto", "is_stateless": False}
    flat = tf.raw_ops.CollectiveReduceV2(input=flat, **options, **_keys(flat))
    parts = tf.split(flat, [tensor.shape.num_elements() for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def gather(x: Any) -> Any:
    n = world_size()
    if n == 1:
        return x
    if x.dtype == tf.bool:  # which the exchange does not take
        return tf.cast(gather(tf.cast(x, tf.int32)), tf.bool)
    # To everyone the same.
    every = tf.repeat(x[None], n, axis=0)
    if _is_real():
        every = _exchanged(every)
    return tf.reshape(every, tf.concat([[-1], tf.shape(x)[1:]], 0))


def real_rows(x: Any, real: Any) -> Any:
    return tf.boolean_mask(x, real)


def check_call(n: int) -> None:
    if world_size() != n:
        raise RuntimeError(
            f"a model whose tables are sharded over {n} replicas was called as a function; use fit, evaluate, predict or "
            "predict_on_batch."
        )


def _place(owner: int, variable: Any) -> tuple[int, int]:
    """The place of a rank's rows of a variable among those of this process, and the number of ranks of this process."""
    value = variable.value
    if not isinstance(value, tf.distribute.DistributedValues):
        return owner - process_rank(), 1
    ranks = len(value.values)
    return owner - replicas.place_of(value.distribute_strategy)[0] * ranks, ranks


def holds(owner: int, variable: Any) -> bool:
    place, ranks = _place(owner, variable)
    return 0 <= place < ranks


def read(variable: Any, owner: int | None, start: int, stop: int) -> np.ndarray:
    return tables.read(variable, start, stop, 0 if owner is None else _place(owner, variable)[0])


def write(variable: Any, owner: int | None, start: int, rows: np.ndarray) -> None:
    tables.write(variable, start, rows, None if owner is None else _place(owner, variable)[0])


def all_words(words: np.ndarray) -> np.ndarray:
    n = process_count()
    if n == 1:
        return words[None]
    everyone = tf.repeat(tf.constant(words)[None], n, axis=0)
    return _exchanged(everyone, _keys_of_processes(everyone)).numpy()  # type: ignore[no-any-return]
