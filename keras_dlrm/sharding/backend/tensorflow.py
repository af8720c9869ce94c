"""Collectives of TensorFlow itself, between the workers of a `tf.distribute.MultiWorkerMirroredStrategy`."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm.embeddings import backend as tables
from keras_dlrm.sharding.meter import meter

_strategy: Any = None
# Bytes, counted as steps run: how many rows a batch has is not known before.
_sent: Any = None
# Of all collectives here, and other than those of tf.distribute.
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
    _sent = tf.Variable(0, dtype=tf.int64, trainable=False)
    meter.more = lambda: int(_sent.numpy())


def stop() -> None:
    """Nothing: the servers end with their processes."""


def world_size() -> int:
    return 1 if _strategy is None else int(_strategy.num_replicas_in_sync)


def rank() -> int:
    return 0 if _strategy is None else int(_strategy.cluster_resolver.task_id)


process_rank, process_count = rank, world_size


def _keys() -> dict[str, Any]:
    # No timeout: in TensorFlow 2.21 each collective that has one takes a thread that sleeps so long, even if the collective is
    # done before; after some hundred steps there are no more threads. The strategy itself looks after its workers.
    return {"group_size": world_size(), "group_key": _GROUP, "instance_key": next(_instances)}


def _count(x: Any, factor: int) -> None:
    """Count an N-th of a tensor as sent, `factor` times."""
    each = (tf.size(x, tf.int64) + (world_size() - 1)) // world_size()
    _sent.assign_add(each * x.dtype.size * factor)


def _exchanged(x: Any) -> Any:
    n = world_size()
    _count(x, n - 1)
    found = tf.raw_ops.CollectiveAllToAllV2(
        input=x, ordering_token=[], communication_hint="auto", is_stateless=False, **_keys()
    )
    return tf.ensure_shape(found, x.shape)


@tf.custom_gradient
def _exchange(x: Any) -> Any:
    return _exchanged(x), _exchanged


def exchange(x: Any) -> Any:
    return x if world_size() == 1 else _exchange(tf.convert_to_tensor(x))


def _all_sum(x: Any) -> Any:
    n = world_size()
    _count(x, 2 * (n - 1))
    return tf.raw_ops.CollectiveReduceV2(
        input=x, ordering_token=[], merge_op="Add", final_op="Id", communication_hint="auto", is_stateless=False, **_keys()
    )


def all_sum(tensors: Sequence[Any]) -> list[Any]:
    if world_size() == 1 or not tensors:
        return list(tensors)
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    flat = _all_sum(tf.concat([tf.reshape(tensor, (-1,)) for tensor in tensors], 0))
    parts = tf.split(flat, [tensor.shape.num_elements() for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def gather(x: Any) -> Any:
    n = world_size()
    if n == 1:
        return x
    # To everyone the same.
    found = _exchanged(tf.repeat(x[None], n, axis=0))
    return tf.reshape(found, tf.concat([[-1], tf.shape(x)[1:]], 0))


# -- variables ---------------------------------------------------------------------------------------------------------


def add_table(layer: Any, name: str, shape: tuple[int, int], dtype: str, replicated: bool) -> Any:
    if tf.distribute.has_strategy():
        raise ValueError(
            "sharded tables are this process's own variables: build the model outside of strategy.scope(); kd.sharding.start() "
            "joins the workers of TF_CONFIG, and each process calls fit on its part of the batches."
        )
    return layer.add_weight(name=name, shape=shape, initializer="zeros", autocast=False, dtype=dtype)


def holds(owner: int) -> bool:
    return owner == rank()


def read(variable: Any, owner: int | None, start: int, stop: int) -> np.ndarray:
    return tables.read(variable, start, stop)


def write(variable: Any, owner: int | None, start: int, rows: np.ndarray) -> None:
    tables.write(variable, start, rows)


def all_words(words: np.ndarray) -> np.ndarray:
    if world_size() == 1:
        return words[None]
    return _exchanged(tf.repeat(tf.constant(words)[None], world_size(), axis=0)).numpy()  # type: ignore[no-any-return]
