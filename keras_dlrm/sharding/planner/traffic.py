"""Bytes that a training step moves between processes, from the plan alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

from keras_dlrm.sharding.layout import Layout

_ITEM = 4  # int32 and float32


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes that one process sends to the others in a training step; each receives as many.

    Attributes:
        ids: Rows asked for, and their weights where there are any.
        vectors: Pooled vectors, forward, and their gradients, backward.
        replicated: Rows of replicated tables and their gradients.
        dense: Gradients of the dense parameters.
        metrics: Labels and predictions, which all processes see all of.
    """

    ids: int
    vectors: int
    replicated: int
    dense: int
    metrics: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(dataclasses.astuple(self))


def traffic(layout: Layout, global_batch: int, weighted: bool, dense_parameters: int) -> Traffic:
    """Bytes that a step of all processes together costs each of them. They do not depend on the size of any table."""
    return traffic_of(layout.plan.world_size, layout.groups, global_batch, weighted, dense_parameters)


class _Counts(Protocol):
    """The counts of a group that traffic depends on, as `Group` and `GroupLoad` have them."""

    @property
    def width(self) -> int: ...
    @property
    def replicated(self) -> bool: ...
    @property
    def positions(self) -> int: ...
    @property
    def outputs(self) -> int: ...


def traffic_of(
    world_size: int, groups: Sequence[_Counts], global_batch: int, weighted: bool, dense_parameters: int
) -> Traffic:
    """The traffic of a step, from the groups' counts alone."""
    n = world_size
    others, batch = n - 1, math.ceil(global_batch / n)
    exchanged = [group for group in groups if not group.replicated]
    asked = sum(group.positions for group in exchanged)
    answered = sum(group.outputs * group.width for group in exchanged)
    copies = sum(group.positions * (1 + group.width) for group in groups if group.replicated)
    return Traffic(
        ids=_ITEM * others * batch * asked * (2 if weighted else 1),
        vectors=_ITEM * others * batch * answered * 2,
        replicated=_ITEM * others * batch * copies,
        # A ring: each process sends each of N parts on, once while they are added up and once as the sum.
        dense=_ITEM * 2 * others * math.ceil(dense_parameters / n),
        metrics=_ITEM * others * batch * 2,
    )
