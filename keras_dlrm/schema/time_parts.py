"""Columns that are made of another column: parts of a time, checks of these and of what content vectors give, raw names."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_dlrm.support.arguments import shown

#: Parts of a time that are ids of a sparse column, and how many there are.
SPARSE_PARTS = {"hour": 24, "weekday": 7}
#: Parts of a time that are numbers of a dense column.
DENSE_PARTS = ("days",)
#: What a sparse column has of a content vector's codes.
CODE_PARTS = ("prefixes", "codes")
#: Times as texts, in ISO 8601: date, hour, minute, second, fraction, and sign, hours and minutes of the zone.
ISO = (
    r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,6})\d*)?)?\s?(?:[zZ]|([+-])(\d{2}):?(\d{2}))?)?$"
)


def check_part(who: str, of: Any, part: Any, known: Iterable[str]) -> None:
    """`ValueError` unless both or neither of a column's `of` and `part` are given, and the part is known."""
    if (of is None) != (part is None):
        raise ValueError(f"{who}: of={shown(of)} and part={shown(part)} go together; give both or neither.")
    if part is not None and part not in known:
        raise ValueError(f"{who}: part={shown(part)} is unknown; use one of {tuple(known)}.")


def check_sources(columns: Iterable[Any], names: Iterable[str]) -> None:
    """`ValueError` where a column is made of one that is an input of the model, or the label, itself."""
    taken, widths = set(names), dict[Any, Any]()
    for column in columns:
        if column.of is not None and widths.setdefault(column.of, column.width) != column.width:
            kinds = " and ".join(f"a vector of {w} numbers" if w else "a time" for w in (widths[column.of], column.width))
            raise ValueError(f"Schema: column {column.name!r} is made of {column.of!r}, which is {kinds}; give it one width.")
        if column.of in taken:
            fix = "give it another name in the data, or leave out the column that has it."
            raise ValueError(f"Schema: column {column.name!r} is made of {column.of!r}, which is a column of its own; {fix}")


def raw_names(schema: Any) -> list[str]:
    """Names of the columns that raw rows have, without the label: those of times and vectors stand for what is made of them.

    Example:

    >>> made = [kd.Categorical("hour", of="at", part="hour"), kd.Categorical("weekday", of="at", part="weekday")]
    >>> raw_names(kd.Schema(["price"], made))
    ['price', 'at']
    """
    sparse = [column for column in schema.categorical if not column.crossed]
    return list(dict.fromkeys(column.of or column.name for column in (*schema.dense, *sparse)))


def made_columns(schema: Any) -> list[Any]:
    """Columns that are made of others, which raw rows do not have."""
    return [column for column in (*schema.dense, *schema.categorical) if column.of is not None]


def sources(schema: Any) -> list[str]:
    """Names of the columns of times that others are made of."""
    return list(dict.fromkeys(column.of for column in made_columns(schema) if column.width is None))


def part_of(part: str, seconds: np.ndarray) -> np.ndarray:
    """Whole seconds since 1970, float64 (n,), NaN where missing → part of each, float64: weekdays begin at 0, a Monday.

    Example:

    >>> moment = np.array([1_706_704_200.0])  # Wednesday, 2024-01-31 12:30
    >>> part_of("hour", moment).item(), part_of("weekday", moment).item(), round(part_of("days", moment).item(), 2)
    (12.0, 2.0, 19753.52)
    """
    if part == "hour":
        return np.floor(seconds / 3600) % 24
    return (np.floor(seconds / 86400) + 3) % 7 if part == "weekday" else seconds / 86400
