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

_NAMES = {
    "Estimate": "planner.estimate",
    "MACHINES": "planner.machine",
    "Machine": "planner.machine",
    "Part": "part",
    "Placement": "plan",
    "Shard": "plan",
    "ShardingPlan": "plan",
    "Workload": "planner.workload",
    "explain": "planner.estimate",
    "part_of": "part",
    "process_count": "keras_dlrm.sharding.collectives",
    "process_rank": "keras_dlrm.sharding.collectives",
    "scaling_png": "planner.simulator",
    "simulate": "planner.simulator",
    "start": "keras_dlrm.sharding.collectives",
    "stop": "keras_dlrm.sharding.collectives",
    "use": "active",
}
__all__ = sorted(_NAMES)

__getattr__, __dir__ = lazy(__name__, _NAMES)
