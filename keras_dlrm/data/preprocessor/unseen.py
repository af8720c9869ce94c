"""Counts of values that a vocabulary does not know, by column."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dlrm.schema.columns import PADDING

if TYPE_CHECKING:
    from keras_dlrm.schema.schema import Schema

# Where half of a column's values are unseen, and there are some, it is hardly the log that the model knows.
SUSPICIOUS, FEW = 0.5, 10
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Unseen:
    """Values of one column.

    Args:
        column: Its name.
        values: How many there are; missing ones are none.
        unseen: How many of them the vocabulary does not have.

    Example:

    >>> Unseen("user", 200, 50).share
    0.25
    """

    column: str
    values: int
    unseen: int

    @property
    def share(self) -> float:
        """The part that is unseen, 0 where there are no values."""
        return self.unseen / self.values if self.values else 0.0


class Tally:
    """Sums them up by column.

    Example:

    >>> tally = Tally()
    >>> tally.add("user", 10, 2)
    >>> tally.add("user", 10, 1)
    >>> tally.columns()
    (Unseen(column='user', values=20, unseen=3),)
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[int]] = {}

    def add(self, column: str, values: int, unseen: int) -> None:
        """Add some values of a column."""
        sums = self._sums.setdefault(column, [0, 0])
        sums[0] += values
        sums[1] += unseen

    def add_packed(self, schema: Schema, sparse: np.ndarray | None) -> None:
        """Add the ids of packed rows (B, W) of columns with a fitted vocabulary: OOV rows are those of unseen values."""
        if sparse is None:
            return
        for column, start in zip(schema.categorical, schema.offsets, strict=True):
            if column.identity is not None and column.oov is not None:
                ids = sparse[:, start : start + column.hotness]
                unseen = (ids >= column.oov) & (ids < column.oov + column.oov_rows)
                self.add(column.name, int(np.count_nonzero(ids != PADDING)), int(np.count_nonzero(unseen)))

    def columns(self) -> tuple[Unseen, ...]:
        """All columns."""
        return tuple(Unseen(name, *sums) for name, sums in self._sums.items())


def worst(columns: Iterable[Unseen]) -> list[Unseen]:
    """At most ten columns with unseen values, the largest share first."""
    return sorted((c for c in columns if c.unseen), key=lambda c: (-c.share, -c.unseen, c.column))[:SHOWN]


def warning(columns: Iterable[Unseen]) -> str:
    """A warning where the shares point to another vocabulary; empty where they do not.

    Example:

    >>> warning([Unseen("user", 100, 98)])
    "98% of the values of 'user' are unseen; are these rows of the log, and in the form, that the model was trained on?"
    """
    suspicious = [c for c in worst(columns) if c.share >= SUSPICIOUS and c.values >= FEW]
    if not suspicious:
        return ""
    first = suspicious[0]
    others = f" (and {len(suspicious) - 1} more columns like it)" if len(suspicious) > 1 else ""
    return (
        f"{100 * first.share:.0f}% of the values of {first.column!r}{others} are unseen; are these rows of the log, and in the "
        "form, that the model was trained on?"
    )


def table(columns: Sequence[Unseen]) -> list[dict[str, Any]]:
    """Lines of a table for the terminal, of the worst columns."""
    short = {c.column: c.column if len(c.column) <= 30 else f"{c.column[:29]}…" for c in columns}
    return [
        {"column": short[c.column], "values": c.values, "unseen": c.unseen, "share": f"{100 * c.share:.1f}%"}
        for c in worst(columns)
    ]


def as_json(columns: Sequence[Unseen]) -> Mapping[str, Any]:
    """For the machine-readable line: values and unseen ones by column, of all columns that have unseen ones."""
    return {c.column: {"values": c.values, "unseen": c.unseen} for c in columns if c.unseen}
