"""Costs of training on parameter servers for each process: bytes that it sends, and memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_dlrm.parameter_server.server import Server
from keras_dlrm.parameter_server.step import WorkerStep


def bytes_sent(step: WorkerStep, servers: Sequence[Server], steps: int) -> tuple[int, list[int]]:
    """Bytes of ids, rows, dense parameters and gradients in some steps: those that all workers sent, and those of each server."""
    stacks = step.tables.collection.stacks
    item = tf.as_dtype(step.tables.collection.table_dtype).size
    dense = steps * sum(4 * int(np.prod(v.shape)) for v in step.dense)
    workers, each = 0, []
    for server in servers:
        rows = [(int(n), stack.width) for n, stack in zip(server.asked, stacks, strict=True)]
        parameters = dense if server.index == step.home else 0
        workers += sum(n * (4 + 4 * width) for n, width in rows) + parameters
        each.append(sum(n * width * item for n, width in rows) + parameters)
    return workers, each


def peak_memory(device: str) -> int:
    """Most bytes of memory that the process of a device had at a time; Linux."""
    with tf.device(device):
        return int(_status().numpy().split()[1]) * 1024


@tf.function
def _status() -> tf.Tensor:
    # Line by line: a file of /proc says that it has no bytes.
    lines = tf.data.TextLineDataset("/proc/self/status")
    return lines.filter(lambda line: tf.strings.regex_full_match(line, "VmHWM.*")).reduce("", lambda _, line: line)
