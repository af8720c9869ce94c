"""Test for NaN and infinity, in operations that every backend and exported file has."""

from typing import Any

import numpy as np
from keras import ops

_LARGEST = float(np.finfo(np.float32).max)


def is_finite(values: Any) -> Any:
    """Whether each of some float32 values is a number: by a comparison, which NaN fails, as LiteRT has no operation that asks.

    Example:

    >>> np.asarray(is_finite(np.array([1.0, np.nan, -np.inf], "float32"))).tolist()
    [True, False, False]
    """
    return ops.less_equal(ops.absolute(values), _LARGEST)


def check_rows(name: str, rows: Any) -> None:
    """`ValueError` where new rows of a table are not finite float32 numbers; a part of them at a time is looked at."""
    rows = np.asarray(rows)
    for first in range(0, len(rows), 2**16):
        with np.errstate(over="ignore"):
            finite = np.isfinite(rows[first : first + 2**16].astype(np.float32, copy=False))
        if not finite.all():
            row, place = (int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(
                f"set_embedding_tables: table {name!r} has {rows[first + row, place]} in row {first + row}, place {place}; rows "
                "must be finite float32 numbers. Mend them, or take a model from before training went wrong."
            )
