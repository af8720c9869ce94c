"""Test for NaN and infinity, in operations that every backend and exported file has."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

_LARGEST = float(np.finfo(np.float32).max)


def is_finite(values: Any) -> Any:
    """Whether each of some float32 values is a number.

    By a comparison, which NaN fails: LiteRT has no operation that asks.

    Args:
        values: float32 tensor.

    Returns:
        bool tensor of the same shape.

    Example:

    >>> np.asarray(is_finite(np.array([1.0, np.nan, -np.inf], "float32"))).tolist()
    [True, False, False]
    """
    return ops.less_equal(ops.absolute(values), _LARGEST)
