"""A count over an epoch that stays exact."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_dlrm import backend
from keras_dlrm.metrics.running_sum import RunningSum

_HALF = 2**16


class Count(keras.metrics.Metric):
    """Sum of integers, exact up to about 2⁴⁷; `keras.metrics.Sum` stops growing by ones at 2²⁴.

    In a compiled step on JAX, which has no float64, the result is rounded to float32, as progress bars show it; the logs
    of an epoch are exact.

    Args:
        name: Name in the logs.

    Example:

    >>> count = Count("seen")
    >>> for part in (2**24, 1, 2):
    ...     count.update_state(keras.ops.convert_to_tensor(part, "int32"))
    >>> int(count.result()) - 2**24
    3
    """

    def __init__(self, name: str = "count") -> None:
        super().__init__(name=name)
        self._sum = RunningSum(self, "count")

    def update_state(self, part: Any) -> None:
        """Add an int32 scalar >= 0."""
        # Each half of it is a float32.
        low = ops.mod(part, _HALF)
        self._sum.add(ops.cast(part - low, "float32"))
        self._sum.add(ops.cast(low, "float32"))

    def result(self) -> Any:
        return backend.precise_sum(self._sum.high.value, self._sum.low.value)
