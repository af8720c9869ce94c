"""Raw values: which are missing, which are numbers (NumPy)."""

import numbers
from decimal import Decimal
from typing import Any

import numpy as np

_MISSING_NAMES = ("NAType", "NaTType", "MaskedConstant")


def is_missing(value: Any) -> bool:
    """True for None, NaN, pandas' NA, a time that is none (NaT), and what is masked.

    Example:

    >>> [is_missing(value) for value in (None, float("nan"), np.float32("nan"), np.ma.masked, 0, "")]
    [True, True, True, True, False, False]
    """
    if value is None or type(value).__name__ in _MISSING_NAMES:
        return True
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    if isinstance(value, Decimal):
        return value.is_nan()  # a signalling NaN cannot be compared
    return isinstance(value, (float, np.floating)) and bool(value != value)


def is_number(value: Any) -> bool:
    """True for a real number or a boolean. NumPy takes a difference of times for an integer.

    Example:

    >>> [is_number(value) for value in (1, np.float32(2), Decimal(3), True, np.timedelta64(1, "D"), 1j, "1")]
    [True, True, True, True, False, False, False]
    """
    return isinstance(value, (numbers.Real, Decimal, np.bool_)) and not isinstance(value, np.timedelta64)


def as_list(values: Any) -> Any:
    """An array, or lists and arrays inside each other, as lists; `None` where masked.

    Floats of 32 bits stay what they are: their shortest digits are fewer than those of the same number in 64.

    Example:

    >>> as_list([np.ma.array([1, 2], mask=[True, False]), [np.ma.masked]])
    [[None, 2], [None]]
    """
    if values is np.ma.masked:
        return None
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return [as_list(row) for row in values]
    if np.ma.isMaskedArray(values):
        mask, data = np.ma.getmaskarray(values).tolist(), as_list(np.ma.getdata(values))
        return [None if hidden else value for value, hidden in zip(data, mask, strict=True)]
    if isinstance(values, np.ndarray) and values.dtype not in (object, np.float32, np.float16):
        return values.tolist()
    return [as_list(value) if isinstance(value, (list, tuple, np.ndarray)) else value for value in values]


def masked_inside(values: Any) -> bool:
    """True where a list or tuple holds masked values or masked arrays, whose masks `np.asarray` drops."""
    return isinstance(values, (list, tuple)) and any(map(np.ma.isMaskedArray, values))


def real_array(who: str, values: Any) -> np.ndarray:
    """Numbers in any form as a NumPy array.

    Args:
        who: What they are, for messages, such as `"pack: dense column 'x'"`.
        values: A sequence, an array, a NumPy masked array, or a column of pandas, Polars or Arrow, of any shape.

    Returns:
        Array of booleans, integers or floats, NaN where a value is missing or masked.

    Raises:
        TypeError: dates, times, differences of times, texts, complex numbers or other objects; the message says which.

    Example:

    >>> real_array("x", [1, None, Decimal("2.5")]).tolist()
    [1.0, nan, 2.5]
    >>> real_array("x", np.ma.array([3, 4], mask=[True, False])).tolist()
    [nan, 4.0]
    """
    array = np.asarray(as_list(values) if masked_inside(values) else values)
    if not array.size:
        return np.zeros(array.shape)
    if array.dtype == object:
        array = _of_objects(who, array)
    elif array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    elif array.dtype.kind not in "biuf":
        raise TypeError(f"{who} has dtype {array.dtype}; it must be numeric, with real numbers or booleans.")
    if np.ma.is_masked(values):
        array = np.where(np.ma.getmaskarray(values), np.nan, array)
    return array


def _of_objects(who: str, array: np.ndarray) -> np.ndarray:
    floats = np.empty(array.shape, np.float64)
    for place, value in enumerate(array.flat):
        if is_missing(value):
            floats.flat[place] = np.nan
        elif is_number(value):
            try:
                floats.flat[place] = float(value)
            except OverflowError:
                floats.flat[place] = np.inf if value > 0 else -np.inf
        else:
            row = np.unravel_index(place, array.shape)[0]
            raise TypeError(
                f"{who} has {value!r}, of type {type(value).__name__}, in row {row}; it must be numeric, with real numbers or "
                "booleans."
            )
    return floats


class NotFinite(ValueError):
    """A loss or a weight is NaN or infinite."""
