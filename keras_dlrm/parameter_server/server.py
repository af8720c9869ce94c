"""A parameter server: its lock, its ledger of the steps that were applied to it, and the process of a server or a worker."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm.parameter_server.cluster import task
from keras_dlrm.sharding.heartbeat import beats
from keras_dlrm.sharding.processes import end_with_launcher

_COUNT = 0


class Server:
    """One parameter server, as the chief sees it.

    A worker may die at any moment, and its step is then given to another one, although the first may have applied it to
    some of the servers. So each server keeps a ledger: whether it has step s, and how many it has in all, which one
    operation writes together after all else. A step that it has is not applied again. The lock makes one step's update of
    this server's rows and parameters whole before the next one begins; all that it needs is there before it is taken.
    """

    def __init__(self, index: int, device: str, steps: int, stacks: int) -> None:
        self.index, self.device, self.steps = index, device, steps
        with tf.device(device):
            self._lock = tf.CriticalSection(shared_name=f"lock_{uuid.uuid4().hex}")
            self._ledger = tf.Variable(lambda: tf.zeros(1 + steps, tf.int64), trainable=False)
            self._asked = tf.Variable(lambda: tf.zeros(stacks, tf.int64), trainable=False)

    def apply(self, step: Any, update: Callable[[Any], None], asked: Any) -> Any:
        """Apply a worker's step, unless the server has it.

        Args:
            step: Number of the step, int64.
            update: Called with the number of steps that the server has, to make the operations that apply the step.
            asked: int64 (stacks,): rows that the step looked up here.
        """

        def new() -> Any:
            with tf.device(self.device):
                count = tf.gather(self._ledger, _COUNT)
                with _all_of() as made:
                    update(count)
                    each = tf.range(len(self._asked))
                    total = self._asked.sparse_read(each) + asked
                    tf.raw_ops.ResourceScatterUpdate(resource=self._asked.handle, indices=each, updates=total)
                with tf.control_dependencies(made):
                    places, values = tf.stack([_COUNT, 1 + step]), tf.stack([count + 1, 1])
                    done = tf.raw_ops.ResourceScatterUpdate(resource=self._ledger.handle, indices=places, updates=values)
                with tf.control_dependencies([done]):
                    return tf.constant(1)

        def section() -> Any:
            with tf.device(self.device):
                return tf.cond(tf.gather(self._ledger, 1 + step) > 0, lambda: tf.constant(0), new)

        with tf.device(self.device):
            return self._lock.execute(section)

    @property
    def applied(self) -> int:
        """Steps that it has."""
        with tf.device(self.device):
            return int(tf.gather(self._ledger, _COUNT).numpy())

    @property
    def asked(self) -> np.ndarray:
        """Rows of each stack that were looked up here since it was made."""
        return self._asked.numpy()

    def restore(self, steps: int) -> None:
        """Have the first steps, and no others."""
        self._ledger.assign(np.concatenate([[steps], np.arange(self.steps) < steps]).astype(np.int64))


@contextlib.contextmanager
def _all_of() -> Iterator[list[Any]]:
    """The operations that are made in this context."""
    graph = tf.compat.v1.get_default_graph()
    made: list[Any] = []
    before = {op.name for op in graph.get_operations()}
    yield made
    made += [op for op in graph.get_operations() if op.name not in before]


def peak_memory(device: str) -> int:
    """Most bytes of memory that the process of a device had at a time; Linux."""
    with tf.device(device):
        return int(_peak_line().numpy().split()[1]) * 1024


@tf.function
def _peak_line() -> tf.Tensor:
    # Line by line: a file of /proc says that it has no bytes.
    lines = tf.data.TextLineDataset("/proc/self/status")
    return lines.filter(lambda line: tf.strings.regex_full_match(line, "VmHWM.*")).reduce("", lambda _, line: line)


def serve() -> None:
    """Do what the chief asks until this process is ended.

    Raises:
        ValueError: `TF_CONFIG` does not say that this is a worker or a server.
    """
    me = task()
    if me is None or me[0] not in ("worker", "ps"):
        raise ValueError(f"serve: TF_CONFIG must say that this is a worker or a server (ps) of a cluster; it says {me}.")
    end_with_launcher()
    beats.begin()
    # A call to a process that is gone fails, instead of waiting for it.
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    config = tf.compat.v1.ConfigProto()
    # Each step under way holds a thread while it waits for others.
    workers = len(resolver.cluster_spec().as_dict()["worker"])
    config.inter_op_parallelism_threads = max(4, os.cpu_count() or 1, 2 * workers + 2)
    server = tf.distribute.Server(resolver.cluster_spec(), job_name=me[0], task_index=me[1], protocol="grpc", config=config)
    server.join()
