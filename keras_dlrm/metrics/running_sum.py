"""A float32 sum that does not saturate: the state behind the streaming metrics."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class RunningSum:
    """A streaming sum kept as two float32 variables, `high + low`, with about 48 significant bits.

    A plain float32 sum of counts stops growing correctly after 2²⁴ (1.7e7) rows. A running mean avoids that but cannot
    be merged: replicas of a distributed metric add their variables, and means do not add. Two parts do both.

    Args:
        metric: The metric that owns the variables.
        name: Prefix of the variables' names.

    Example:

    >>> metric = keras.metrics.Metric(name="demo")
    >>> rows = RunningSum(metric, "rows")
    >>> for part in (2.0**24, 1.0, 1.0, 1.0, 1.0):
    ...     rows.add(keras.ops.convert_to_tensor(part, "float32"))
    >>> float(rows.value()) - 2**24     # a plain float32 sum gives 0
    4.0

    Source: D. E. Knuth, The Art of Computer Programming 2, 4.2.2, theorem B (the exact error of a float addition).
    """

    def __init__(self, metric: keras.metrics.Metric, name: str) -> None:
        self.high = metric.add_variable(shape=(), initializer="zeros", dtype="float32", name=f"{name}_high")
        self.low = metric.add_variable(shape=(), initializer="zeros", dtype="float32", name=f"{name}_low")

    def add(self, part: Any) -> None:
        """Add a float32 scalar tensor."""
        high = ops.convert_to_tensor(self.high)
        total, error = _two_sum(high, part)
        # `low` stays small beside `high`: what it has gathered moves over as soon as `high` can hold it.
        total, low = _two_sum(total, ops.convert_to_tensor(self.low) + error)
        self.high.assign(total)
        self.low.assign(low)

    def value(self) -> Any:
        """The sum as a float32 scalar tensor, rounded once."""
        return ops.convert_to_tensor(self.high) + ops.convert_to_tensor(self.low)


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The float32 sum of two scalars and the exact rounding error of that sum."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)
