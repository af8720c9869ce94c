"""Plan in use: models built under it have their tables sharded."""

import contextlib
from collections.abc import Iterator

from keras_dlrm.sharding import collectives, everyone
from keras_dlrm.sharding.plan import ShardingPlan

_in_use: list[ShardingPlan] = []


@contextlib.contextmanager
def use(plan: ShardingPlan) -> Iterator[ShardingPlan]:
    """While this context is open, embedding tables are made as the plan says: each process makes its parts.

    Every process runs the same program. Models know nothing of it, and those that are built inside stay sharded
    afterwards.

    Args:
        plan: For as many processes (on JAX: devices) as there are.

    Raises:
        ValueError: the plan is for another number of them, or processes have different ones.
    """
    n = collectives.world_size()
    if plan.world_size != n:
        raise ValueError(
            f"use: the plan is for world_size={plan.world_size}, but {n} {'process runs' if n == 1 else 'processes run'} here; "
            f"take plan.for_world({n}), or start {plan.world_size}."
        )
    everyone.require_alike("use", {"plan": plan.to_dict()})
    _in_use.append(plan)
    try:
        yield plan
    finally:
        _in_use.pop()


def current() -> ShardingPlan | None:
    """The plan in use, if there is one."""
    return _in_use[-1] if _in_use else None
