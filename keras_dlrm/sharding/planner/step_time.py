"""Time of a training step, from the load of each process and a machine's speeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dlrm.sharding.planner.load import GroupLoad
from keras_dlrm.sharding.planner.machine import Machine
from keras_dlrm.sharding.planner.traffic import traffic_of
from keras_dlrm.sharding.planner.workload import Workload


def allocated(work: Workload, groups: Sequence[GroupLoad]) -> int:
    """Bytes of tables and slots on each process: a group's variable is as high everywhere as the highest needs it."""
    return sum(int(group.rows.max()) * work.row_bytes(group.width) for group in groups)


def seconds(work: Workload, n: int, groups: Sequence[GroupLoad], machine: Machine) -> dict[str, float]:
    """Seconds of a step by part, each part as long as that of the slowest of `n` processes."""
    batch, crowd = math.ceil(work.global_batch / n), machine.crowd(n)
    moved = traffic_of(n, groups, work.global_batch, work.weighted, work.dense_parameters)
    shrink = work.wire_bytes / 4
    # Rows are read and summed, gradients read once for each lookup and summed, and rows and slots that changed read and written.
    lookup = np.zeros(n)
    for group in groups:
        # Of a copy, a process looks its own examples up and makes the updates of all.
        looked = batch if group.replicated else n * batch
        forward = looked * group.width * (group.read * work.number_bytes + group.answered * 4)
        backward = n * batch * group.read * group.width * 4
        update = group.written * 2 * work.row_bytes(group.width)
        touched = (forward + backward + update) / machine.memory_bandwidth
        lookup = lookup + touched + group.asked * n * batch * machine.row_seconds
    exchanged = [group for group in groups if not group.replicated]
    count = len(exchanged)
    products = 6 * work.dense_parameters * batch / machine.flops
    layers = work.activations * work.activation_bytes * batch + 5 * 4 * work.dense_parameters

    def per_collective(total: float, times: int, collective: Any) -> float:
        return times * collective(total / times, n) if times else 0.0

    return {
        "overhead": machine.step_seconds,
        "dense_layers": crowd * (products + layers / machine.memory_bandwidth),
        "lookup_and_update": crowd * float(lookup.max()),
        "ids": per_collective(moved.ids, count * (2 if work.weighted else 1), machine.all_to_all),
        "vectors": per_collective(moved.vectors * shrink, 2 * count, machine.all_to_all),
        "replicated": per_collective(moved.replicated * shrink, 2 * (len(groups) - count), machine.all_gather),
        "dense": machine.all_reduce(work.dense_parameters * work.wire_bytes, n),
        "metrics": machine.all_gather(moved.metrics, n),
    }
