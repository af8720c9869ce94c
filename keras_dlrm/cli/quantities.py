"""Kinds of values that options take: numbers above 0, lengths of time."""

import math
import re
from typing import Any

import click


class _Positive(click.ParamType):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"{value!r} must be a finite number above 0.", param, ctx)
        return number


#: A finite number above 0, such as a learning rate or seconds.
POSITIVE = _Positive()


class _Duration(click.ParamType):
    name = "duration"
    _UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smh]?)", str(value))
        seconds = float(number[1]) * self._UNITS[number[2]] if number else 0.0
        if not 0 < seconds < math.inf:
            self.fail(f"{value!r} must be seconds, minutes or hours, such as 90s, 10m or 2h.", param, ctx)
        return seconds


#: A length of time, such as 90s, 10m or 2h, in seconds.
DURATION = _Duration()
