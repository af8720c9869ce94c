"""Tables over many processes: plans, layouts, parts of batches, launcher, heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.support.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.sharding.active import use as use
    from keras_dlrm.sharding.collectives import process_count as process_count
    from keras_dlrm.sharding.collectives import process_rank as process_rank
    from keras_dlrm.sharding.collectives import start as start
    from keras_dlrm.sharding.collectives import stop as stop
    from keras_dlrm.sharding.part import Part as Part
    from keras_dlrm.sharding.part import part_of as part_of
    from keras_dlrm.sharding.plan import Placement as Placement
    from keras_dlrm.sharding.plan import Shard as Shard
    from keras_dlrm.sharding.plan import ShardingPlan as ShardingPlan
    from keras_dlrm.sharding.planner.estimate import Estimate as Estimate
    from keras_dlrm.sharding.planner.estimate import explain as explain
    from keras_dlrm.sharding.planner.machine import MACHINES as MACHINES
    from keras_dlrm.sharding.planner.machine import Machine as Machine
    from keras_dlrm.sharding.planner.simulator import scaling_png as scaling_png
    from keras_dlrm.sharding.planner.simulator import simulate as simulate
    from keras_dlrm.sharding.planner.workload import Workload as Workload

_MODULES = {
    "active": "use",
    "keras_dlrm.sharding.collectives": "process_count process_rank start stop",
    "part": "Part part_of",
    "plan": "Placement Shard ShardingPlan",
    "planner.estimate": "Estimate explain",
    "planner.machine": "MACHINES Machine",
    "planner.simulator": "scaling_png simulate",
    "planner.workload": "Workload",
}
_NAMES = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_NAMES)

__getattr__, __dir__ = lazy(__name__, _NAMES)
