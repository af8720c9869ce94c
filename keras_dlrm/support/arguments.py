"""Checks of arguments: integers, numbers, threads, and one clear error."""

import math
import operator
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxset = 3, 5, 5, 8, 5
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def shown(value: Any) -> str:
    """A value in an error message, short, however large the value is.

    Example:

    >>> shown("log2"), shown(list(range(1000)))
    ("'log2'", '[0, 1, 2, 3, 4, ...]')
    """
    return _SHORT.repr(value)


def integer(who: str, field: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """An integer of at least `low`, and at most `high`, as Python's; `ValueError` names the argument otherwise."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < low:
        raise ValueError(f"{who}: {field}={shown(value)} must be an integer >= {low}.")
    if high is not None and number > high:
        raise ValueError(f"{who}: {field}={shown(value)} must be an integer in {low} … {high:,}.")
    return number


def boolean(who: str, field: str, value: Any) -> bool:
    """True or False; `ValueError` names the argument otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{who}: {field}={shown(value)} must be True or False.")
    return bool(value)


def choice(who: str, field: str, value: Any, options: Sequence[str]) -> None:
    """`ValueError` naming the argument unless it is one of the options."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{who}: {field}={shown(value)} is unknown; use one of {options}.")


def is_list(value: Any) -> bool:
    """Whether a value is many values, such as a list, a set or an array: no text, no mapping, no array without a dimension.

    Example:

    >>> is_list([3]), is_list({3}), is_list("3"), is_list({"a": 3}), is_list(np.array(3))
    (True, True, False, False, False)
    """
    one = isinstance(value, (str, bytes, Mapping)) or getattr(value, "shape", None) == ()
    return not one and (isinstance(value, Iterable) or hasattr(value, "__array__"))


def widths(who: str, field: str, values: Any) -> list[int]:
    """Widths of layers, in order, as a list of integers; empty is allowed."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{who}: {field}={shown(values)} must be a list of integers >= 1.")
    return [integer(who, f"{field}[{i}]", value) for i, value in enumerate(values)]


def number(who: str, field: str, value: Any, low: float = 0.0, below: float = math.inf) -> float:
    """A number in [low, below)."""
    try:
        real = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):  # an integer of hundreds of digits
        real = math.nan
    if not low <= real < below:
        raise ValueError(f"{who}: {field}={shown(value)} must be a number in [{low:g}, {below:g}).")
    return real


def worker_count(who: str, workers: int | None) -> int:
    """The number that was asked for; by default that of the processors. `ValueError` unless it is at least 1."""
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return integer(who, "workers", workers)
