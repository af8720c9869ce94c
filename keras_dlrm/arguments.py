"""Checks of constructor arguments: NumPy's numbers become Python's, anything else one clear error."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np


def integer(who: str, field: str, value: Any, low: int = 1) -> int:
    """An integer of at least `low`; `ValueError` names the argument otherwise."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < low:
        raise ValueError(f"{who}: {field}={value!r} must be an integer >= {low}.")
    return number


def boolean(who: str, field: str, value: Any) -> bool:
    """True or False; `ValueError` names the argument otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{who}: {field}={value!r} must be True or False.")
    return bool(value)


def widths(who: str, field: str, values: Any) -> list[int]:
    """Widths of layers, in order, as a list of integers; empty is allowed."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{who}: {field}={values!r} must be a list of integers >= 1.")
    return [integer(who, f"{field}[{i}]", value) for i, value in enumerate(values)]


def number(who: str, field: str, value: Any, low: float = 0.0, below: float = math.inf) -> float:
    """A number in [low, below)."""
    try:
        found = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not low <= found < below:
        raise ValueError(f"{who}: {field}={value!r} must be a number in [{low:g}, {below:g}).")
    return found
