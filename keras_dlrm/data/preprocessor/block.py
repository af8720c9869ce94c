"""Rows of a table, of a file or in memory, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from keras_dlrm.data.kernels.first_appearance import Texts
from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.preprocessor.bad_rows import EXAMPLES, BadRow
from keras_dlrm.schema.columns import Categorical
from keras_dlrm.schema.packing import Lists

# Which rows are at fault, the value in a row, and what it must be.
Fault = tuple[np.ndarray, Callable[[int], object], str | Callable[[int], str]]


class Faults:
    """Faults of the n rows of one block, called by their `numbers` in the file. The first one that is added to a row counts."""

    def __init__(self, file: str, unit: str, numbers: np.ndarray) -> None:
        self.file, self._unit, self.numbers = file, unit, numbers
        self.bad = np.zeros(len(numbers), bool)
        self._examples: list[tuple[int, BadRow]] = []

    def add(self, column: str, fault: Fault) -> None:
        """Take the rows of a column's fault as bad; no column stands for the row as a whole."""
        mask, value, reason = fault
        if not mask.any():
            return
        rows = np.flatnonzero(mask & ~self.bad)
        self.bad |= mask
        for row in rows[:EXAMPLES].tolist():
            bad = value(row)
            why = reason if isinstance(reason, str) else reason(row)
            shown = bad if isinstance(bad, str) else repr(bad)
            self._examples.append((row, BadRow(self.file, int(self.numbers[row]), column, shown, why, self._unit)))

    def __bool__(self) -> bool:
        return bool(self.bad.any())

    def first(self) -> tuple[list[BadRow], int]:
        """The first bad rows in the order of the file, and how many there are besides."""
        examples = [bad for _, bad in sorted(self._examples, key=lambda entry: entry[0])][:EXAMPLES]
        return examples, int(self.bad.sum()) - len(examples)


class Refused(Faults):
    """Faults of a table in memory: the first one that is added is an error, which names source, row and column."""

    def add(self, column: str, fault: Fault) -> None:
        mask, value, reason = fault
        if mask.any():
            row = int(np.argmax(mask))
            if isinstance(reason, TooLong):
                what = f"{reason.of(row)}; the longest of these {len(mask):,} rows has {reason.lengths.max()}"
            else:
                what = f"value {value(row)!r} {reason if isinstance(reason, str) else reason(row)}"
            raise ValueError(f"{raw.Where(self.file, int(self.numbers[row])).at(0)}, column {column!r}: {what}.")


@dataclasses.dataclass(frozen=True)
class TooLong:
    """The reason for which lists of these lengths, int64 (n,), are refused.

    It says nothing of other rows: a job that continues after a stop sees them in other blocks, and keeps the same text.
    """

    column: Categorical
    lengths: np.ndarray

    def __call__(self, row: int) -> str:
        return f"has {self.of(row)}"

    def of(self, row: int) -> str:
        """Text: the number of values of a row, the number allowed, and the fix."""
        most = f"values but hotness={self.column.hotness}; raise hotness, shorten the list"
        return f"{self.lengths[row]} {most}, or set truncate to 'first' or 'last'"


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A column as numbers.

    Args:
        values: float64 (n,), NaN where missing or no number.
        lost: bool (n,), whether it is not a number.
        value: Gives the value of a row, for messages.
        faults: What else is wrong with the rows.
    """

    values: np.ndarray
    lost: np.ndarray
    value: Callable[[int], object]
    faults: Sequence[Fault] = ()


@dataclasses.dataclass(frozen=True)
class Flat:
    """Values of a categorical column, their rows, and their places in the rows' lists, int64 (k,); perhaps the lists."""

    values: Texts | pl.Series
    rows: np.ndarray
    places: np.ndarray
    lists: Lists | None = None

    def take(self, keep: np.ndarray) -> Flat:
        """The values of some positions."""
        values = self.values.take(keep) if isinstance(self.values, Texts) else self.values.gather(keep)
        return Flat(values, self.rows[keep], self.places[keep])


@dataclasses.dataclass(eq=False)
class Block(ABC):
    """Consecutive rows of one file.

    Args:
        faults: What is wrong with them so far.

    Attributes:
        place: Where to continue after the block: JSON values that only the reader of the file understands.
        share: Share of the file that was read up to the end of the block.
    """

    faults: Faults
    place: dict[str, int] = dataclasses.field(default_factory=dict, init=False)
    share: float = dataclasses.field(default=1.0, init=False)

    def __len__(self) -> int:
        return len(self.faults.numbers)

    @functools.cached_property
    def where(self) -> raw.Where:
        """Source of its first row."""
        return raw.Where(self.faults.file, int(self.faults.numbers[0]) if len(self) else 0)

    @abstractmethod
    def numeric(self, name: str) -> Numbers:
        """A column as numbers."""

    @abstractmethod
    def lists(self, column: Categorical) -> tuple[pl.Series, np.ndarray, np.ndarray, np.ndarray]:
        """The values of a categorical column, their rows and places, and how many each row has, int64 (n,)."""

    @abstractmethod
    def value(self, name: str, row: int) -> object:
        """The value of a column in a row, for messages."""

    @abstractmethod
    def series(self, name: str, rows: np.ndarray) -> pl.Series:
        """A column of single values in some rows."""

    @abstractmethod
    def add_constant(self, name: str, value: str) -> None:
        """One more column, of one text in all rows; missing where that is empty."""

    def vectors(self, name: str, width: int) -> tuple[np.ndarray, Sequence[Fault]]:
        """Content vectors, float64 (n, width), NaN where missing; rows of other lengths, or of no numbers, are faults."""
        flat, rows, places, lengths = self.lists(Categorical(name, hotness=width + 1))  # above 1: texts have several numbers
        bad = (lengths != width) & np.isin(np.arange(len(self)), rows[flat.is_not_null().to_numpy()])
        numbers, lost = raw.numeric(flat, name, self.where)
        inside = ~bad[rows]
        values = np.full((len(self), width), np.nan)
        values[rows[inside], places[inside]] = numbers[inside]
        bad[rows[lost]] = True
        return values, [(bad, lambda row: self.value(name, row), f"must be a list of {width} numbers, or empty if missing")]

    def check_single(self, name: str) -> None:  # noqa: B027
        """Take rows as bad that have several values in a column of single ones."""

    def flat(self, column: Categorical) -> tuple[Flat, Sequence[Fault]]:
        """The values of a categorical column; rows that have too many are faults, or truncated."""
        values, rows, places, lengths = self.lists(column)
        too_long = lengths > column.hotness
        if not too_long.any():
            return Flat(values, rows, places, Lists(lengths, np.zeros_like(lengths))), ()
        if column.truncate is not None:
            return Flat(*raw.truncated(column, values, rows, places, lengths)), ()
        fault = (too_long, lambda row: self.value(column.name, row), TooLong(column, lengths))
        return Flat(values, rows, places).take(np.flatnonzero(~too_long[rows])), [fault]


@dataclasses.dataclass(eq=False)
class FrameBlock(Block):
    """Rows as a Polars frame; their numbers in the file count from 0."""

    frame: pl.DataFrame

    @classmethod
    def in_memory(cls, frame: pl.DataFrame, where: raw.Where) -> FrameBlock:
        """A frame in which nothing may be wrong: `ValueError` names the first row that cannot be used."""
        numbers = np.arange(where.first_row, where.first_row + len(frame))
        return cls(Refused(where.source, "row", numbers), frame)

    def numeric(self, name: str) -> Numbers:
        values = self.frame[name]
        return Numbers(*raw.numeric(values, name, self.where), lambda row: values[row])

    def lists(self, column: Categorical) -> tuple[pl.Series, np.ndarray, np.ndarray, np.ndarray]:
        return raw.flatten(self.frame[column.name], column)

    def value(self, name: str, row: int) -> object:
        value = self.frame[name][row]
        return value.to_list() if hasattr(value, "to_list") else value

    def series(self, name: str, rows: np.ndarray) -> pl.Series:
        return self.frame[name].gather(rows)

    def add_constant(self, name: str, value: str) -> None:
        self.frame = self.frame.with_columns(pl.lit(value or None, dtype=pl.String).alias(name))
