"""Tables over many processes: the plan, what it moves and costs, and the tables' parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.sharding.active import use as use
    from keras_dlrm.sharding.backend import process_count as process_count
    from keras_dlrm.sharding.backend import process_rank as process_rank
    from keras_dlrm.sharding.backend import start as start
    from keras_dlrm.sharding.backend import stop as stop
    from keras_dlrm.sharding.estimate import Estimate as Estimate
    from keras_dlrm.sharding.estimate import explain as explain
    from keras_dlrm.sharding.machine import MACHINES as MACHINES
    from keras_dlrm.sharding.machine import Machine as Machine
    from keras_dlrm.sharding.part import Part as Part
    from keras_dlrm.sharding.part import part_of as part_of
    from keras_dlrm.sharding.plan import Placement as Placement
    from keras_dlrm.sharding.plan import Shard as Shard
    from keras_dlrm.sharding.plan import ShardingPlan as ShardingPlan
    from keras_dlrm.sharding.simulator import scaling_png as scaling_png
    from keras_dlrm.sharding.simulator import simulate as simulate
    from keras_dlrm.sharding.workload import Workload as Workload

_NAMES = {
    "Estimate": "estimate",
    "MACHINES": "machine",
    "Machine": "machine",
    "Part": "part",
    "Placement": "plan",
    "Shard": "plan",
    "ShardingPlan": "plan",
    "Workload": "workload",
    "explain": "estimate",
    "part_of": "part",
    "process_count": "backend",
    "process_rank": "backend",
    "scaling_png": "simulator",
    "simulate": "simulator",
    "start": "backend",
    "stop": "backend",
    "use": "active",
}
__all__ = sorted(_NAMES)

__getattr__, __dir__ = lazy(__name__, _NAMES)
