"""Process of a worker or a server."""

from __future__ import annotations

import os

import tensorflow as tf

from keras_dlrm.parameter_server.cluster import task
from keras_dlrm.sharding.heartbeat import beats
from keras_dlrm.sharding.processes import end_with_launcher


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
