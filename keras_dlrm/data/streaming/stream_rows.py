"""Rows of a stream to packed batches, without those that cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.packed.filling import joined
from keras_dlrm.data.packed.writer import allowed_labels
from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.preprocessor.bad_rows import BadRow, BadRows
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.schema.schema import Schema

Packed = tuple[dict[str, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Places(raw.Where):
    """Source of each row of a frame.

    Args:
        source: Unused.
        first_row: Unused.
        sources: Name of each row's file or partition.
        numbers: Number of each row there.
        unit: What is numbered: `"offset"` or `"row"`.

    Example:

    >>> Places(sources=["clicks:0", "clicks:1"], numbers=[7, 3], unit="offset").at(1)
    'clicks:1, offset 3'
    """

    sources: Sequence[str] = ()
    numbers: Sequence[int] = ()
    unit: str = "row"

    def at(self, row: int) -> str:
        """Source of row `row` of the frame, in words."""
        return f"{self.sources[row]}, {self.unit} {self.numbers[row]}"

    def part(self, start: int, stop: int) -> Places:
        """Places of the rows [start, stop)."""
        return dataclasses.replace(self, sources=self.sources[start:stop], numbers=self.numbers[start:stop])

    def bad(self, row: int, reason: str, column: str = "", value: str = "") -> BadRow:
        """The bad row that row `row` of the frame is."""
        return BadRow(self.sources[row], int(self.numbers[row]), column, value, reason, self.unit)


def labels(frame: pl.DataFrame, schema: Schema, where: raw.Where) -> np.ndarray:
    """The label column as float32 (B,), each 0 or 1, or between where the schema has soft labels."""
    name = schema.label
    values = raw.dense_values(frame, name, where)
    good, allowed = allowed_labels(schema, values)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"{where.at(row)}, label {name!r}: value {frame[name][row]!r} {allowed}.")
    return values.astype(np.float32)


def pack(
    preprocessor: Preprocessor, frame: pl.DataFrame, places: Places, bad: BadRows, known: Sequence[BadRow] = ()
) -> Packed | None:
    """Raw columns → packed batch and labels, through the preprocessor that files and requests go through.

    Where a row cannot be used, halves of the frame are tried until it is found: the others are not lost.

    Args:
        preprocessor: Fitted; its schema names the label.
        frame: The columns of the schema, B rows.
        places: Where they come from.
        bad: What to do with rows that cannot be used.
        known: Rows before, between or behind these that turned out bad already.

    Returns:
        The batch of B' ≤ B rows and labels float32 (B',), or `None` where no row can be used.
    """
    good, unusable = _usable(preprocessor, frame, places)
    # In the order of the stream, so that "raise" names the first one.
    order = {source: i for i, source in enumerate(dict.fromkeys([*(row.file for row in known), *places.sources]))}
    bad.add(sorted([*known, *unusable], key=lambda row: (order[row.file], row.row)))
    return joined(good) if good else None


def _usable(preprocessor: Preprocessor, frame: pl.DataFrame, places: Places) -> tuple[list[Packed], list[BadRow]]:
    rows = len(frame)
    if not rows:
        return [], []
    try:
        label = labels(frame, preprocessor.schema, places)
        return [(preprocessor.transform(frame, where=places), label)], []
    except (ValueError, TypeError) as error:
        if rows == 1:
            reason = str(error).removeprefix(places.at(0)).lstrip(",: ").rstrip(".")
            return [], [places.bad(0, reason)]
    half = rows // 2
    good: list[Packed] = []
    unusable: list[BadRow] = []
    for start, stop in ((0, half), (half, rows)):
        more_good, more_found = _usable(preprocessor, frame[start:stop], places.part(start, stop))
        good += more_good
        unusable += more_found
    return good, unusable


def text_frame(preprocessor: Preprocessor, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """Rows of decoded messages as a frame: strings, and lists of strings in the multi-hot columns."""
    many = {c.name for c in preprocessor.schema.categorical if c.multi_hot}
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in names]
    return pl.DataFrame(
        [
            pl.Series(name, list(values), dtype=pl.List(pl.String) if name in many else pl.String)
            for name, values in zip(names, columns, strict=True)
        ]
    )
