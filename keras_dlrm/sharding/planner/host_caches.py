"""Caches of host tables (`kd.HostTables`) of several sizes: their hits on a log, their memory, the predicted time of a step."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.data.synthetic.stack_profile import stack_distances
from keras_dlrm.sharding.planner.costs import loads, seconds
from keras_dlrm.sharding.planner.machine import Machine
from keras_dlrm.sharding.planner.workload import Workload
from keras_dlrm.sharding.stacking import stack_rows

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
_INDEX, _SLOT = 4, 33  # bytes of the host's memory for each row of the tables, and of the cache
_LOOKUP = 5e-8  # seconds of the host for each looked-up id, which becomes a row and a slot


@dataclasses.dataclass(frozen=True)
class HostCache:
    """A cache of so many rows, and a step with it.

    Attributes:
        device_rows: Rows in the cache.
        share: Share of all rows.
        hits: Share of the lookups that need no row from the file.
        misses: Rows that a step brings from the file.
        device_bytes: Bytes of the cache, slots included.
        host_bytes: Bytes of the host's memory, besides the file.
        file_bytes: Bytes of the file when each row was trained.
        step_seconds: Predicted seconds of a step; nothing is taken for what the look-ahead hides.
    """

    device_rows: int
    share: float
    hits: float
    misses: float
    device_bytes: int
    host_bytes: int
    file_bytes: int
    step_seconds: float


def host_caches(
    work: Workload, batches: Iterable[Mapping[str, np.ndarray]], shares: Sequence[float] = SHARES,
    machine: Machine | str | Mapping[str, Any] = "a100",
) -> list[HostCache]:  # fmt: skip
    """Caches of host tables on one device, tried on batches of a log: the rows that were used longest ago give way.

    A row that the sample has for the first time is a miss; a longer sample has fewer of those.

    Args:
        work: The training step, of tables that are not split.
        batches: Packed batches in the order of training.
        shares: Shares of all rows that are on the device.
        machine: A `Machine`, or a name in `MACHINES`.

    Raises:
        ValueError: there is no batch; tables are split, or of an open vocabulary.

    Example:

    >>> work = Workload.of(kd.Schema(categorical=[kd.Categorical("a", 100)]), 8, global_batch=3, optimizer="sgd")
    >>> batches = [{"sparse": np.array([[1], [1], [2]])}, {"sparse": np.array([[2], [3], [1]])}]
    >>> [(cache.device_rows, cache.misses) for cache in host_caches(work, batches, (0.01, 1.0))]
    [(1, 2.5), (100, 1.5)]
    """
    machine = Machine.of(machine)
    if work.operation is not None or any(stack.per_position["open"].any() for stack in work.stacks):
        raise ValueError("host_caches: host tables have no quotient_remainder and no open vocabulary; leave those columns out.")
    rows = sum(stack.rows for stack in work.stacks)
    looked_up, steps = 0, 0
    used: list[list[np.ndarray]] = [[] for _ in work.stacks]
    for batch in batches:
        steps += 1
        for stack, sequence in zip(work.stacks, used, strict=True):
            asked = stack_rows(stack, batch["sparse"])
            asked = asked[asked >= 0]
            looked_up += len(asked)
            sequence.append(np.unique(asked))
    if not looked_up:
        raise ValueError("host_caches: the sample looks up no row; give batches of a log.")
    distances = [stack_distances(np.concatenate(sequence)) for sequence in used]
    whole = {name: ("replicate", ()) for name in work.tables}
    in_memory = sum(seconds(work, 1, loads(work, 1, whole), machine).values())
    caches = []
    for share in shares:
        sizes = [max(1, round(share * stack.rows)) for stack in work.stacks]
        misses = sum(int(((d < 0) | (d >= size)).sum()) for d, size in zip(distances, sizes, strict=True)) / steps
        records = [work.row_bytes(stack.width) for stack in work.stacks]
        caches.append(HostCache(
            sum(sizes), share, 1 - misses * steps / looked_up, misses,
            sum(size * record for size, record in zip(sizes, records, strict=True)), _INDEX * rows + _SLOT * sum(sizes),
            sum(stack.rows * record for stack, record in zip(work.stacks, records, strict=True)),
            in_memory + misses * machine.host_row_seconds + looked_up / steps * _LOOKUP,
        ))  # fmt: skip
    return caches


def table(caches: Sequence[HostCache]) -> list[dict[str, Any]]:
    """Rows of a table for people, one for each cache."""
    return [
        {"device rows": f"{c.device_rows:,}", "of all": f"{c.share:.0%}", "hits": f"{c.hits:.1%}",
         "rows moved a step": f"{c.misses:,.0f}", "MB on the device": f"{c.device_bytes / 1e6:,.1f}",
         "MB of host memory": f"{c.host_bytes / 1e6:,.1f}",
         "MB of file": f"{c.file_bytes / 1e6:,.1f}", "ms a step": f"{1e3 * c.step_seconds:.2f}"}
        for c in caches
    ]  # fmt: skip
