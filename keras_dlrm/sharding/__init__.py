"""Tables over many processes: plans, layouts, parts of batches, launcher, heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.support.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.sharding.active import use
    from keras_dlrm.sharding.collectives import process_count, process_rank, start, stop
    from keras_dlrm.sharding.part import Part, part_of
    from keras_dlrm.sharding.plan import Placement, Shard, ShardingPlan
    from keras_dlrm.sharding.planner.estimate import Estimate, explain
    from keras_dlrm.sharding.planner.host_caches import HostCache, host_caches
    from keras_dlrm.sharding.planner.machine import MACHINES, Machine
    from keras_dlrm.sharding.planner.simulator import scaling_png, simulate
    from keras_dlrm.sharding.planner.workload import Workload

__all__ = [
    "MACHINES", "Estimate", "HostCache", "Machine", "Part", "Placement", "Shard", "ShardingPlan", "Workload", "explain",
    "host_caches", "part_of", "process_count", "process_rank", "scaling_png", "simulate", "start", "stop", "use",
]  # fmt: skip
_MODULES = {
    "active": "use",
    "keras_dlrm.sharding.collectives": "process_count process_rank start stop",
    "part": "Part part_of",
    "plan": "Placement Shard ShardingPlan",
    "planner.estimate": "Estimate explain",
    "planner.host_caches": "HostCache host_caches",
    "planner.machine": "MACHINES Machine",
    "planner.simulator": "scaling_png simulate",
    "planner.workload": "Workload",
}
_NAMES = {name: module for module, names in _MODULES.items() for name in names.split()}
__getattr__, __dir__ = lazy(__name__, _NAMES)
