"""Rows of a table as they come from a file, and what is wrong with them."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.jobs.staging import fingerprint
from keras_dlrm.data.kernels.first_appearance import Texts
from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.preprocessor.bad_rows import EXAMPLES, BadRow
from keras_dlrm.schema.columns import Categorical

# Most rows that are in memory at once, of each block that is under way.
BLOCK_ROWS = 65_536

# Which rows are at fault, the column, its value in a row, and what it must be.
Fault = tuple[np.ndarray, str, "Callable[[int], object] | None", "str | Callable[[int], str]"]


class Faults:
    """Faults of the n rows of one block, called by their `numbers` in the file. The first one that is added to a row counts."""

    def __init__(self, file: str, unit: str, numbers: np.ndarray) -> None:
        self.file, self._unit, self._numbers = file, unit, numbers
        self.bad = np.zeros(len(numbers), bool)
        self._examples: list[tuple[int, BadRow]] = []

    def add(
        self, mask: np.ndarray, column: str, value: Callable[[int], object] | None, reason: str | Callable[[int], str]
    ) -> None:
        """Take the rows of a mask as bad; see `Fault`."""
        if not mask.any():
            return
        rows = np.flatnonzero(mask & ~self.bad)
        self.bad |= mask
        for row in rows[:EXAMPLES].tolist():
            bad = value(row) if value is not None else ""
            why = reason if isinstance(reason, str) else reason(row)
            shown = bad if isinstance(bad, str) else repr(bad)
            self._examples.append((row, BadRow(self.file, int(self._numbers[row]), column, shown, why, self._unit)))

    def __bool__(self) -> bool:
        return bool(self.bad.any())

    def first(self) -> tuple[list[BadRow], int]:
        """The first bad rows in the order of the file, and how many there are besides."""
        examples = [bad for _, bad in sorted(self._examples, key=lambda entry: entry[0])][:EXAMPLES]
        return examples, int(self.bad.sum()) - len(examples)


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
    """Values of a categorical column, their rows, and their places in the rows' lists, int64 (k,)."""

    values: Texts | pl.Series
    rows: np.ndarray
    places: np.ndarray

    def take(self, keep: np.ndarray) -> Flat:
        """The values of some positions."""
        values = self.values.take(keep) if isinstance(self.values, Texts) else self.values.gather(keep)
        return Flat(values, self.rows[keep], self.places[keep])


class Block(ABC):
    """Consecutive rows of one file.

    Args:
        numbers: int64 (n,), what the rows are called in messages.
        faults: What is wrong with them so far.

    Attributes:
        place: Where to continue after the block: JSON values that only the reader of the file understands.
        share: Share of the file that was read up to the end of the block.
    """

    def __init__(self, numbers: np.ndarray, faults: Faults) -> None:
        self.numbers, self.faults = numbers, faults
        self.place: dict[str, int] = {}
        self.share = 1.0

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def where(self) -> raw.Where:
        """Source of its first row."""
        return raw.Where(self.faults.file, int(self.numbers[0]))

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

    def check_single(self, name: str) -> None:  # noqa: B027
        """Take rows as bad that have several values in a column of single ones."""

    def flat(self, column: Categorical) -> tuple[Flat, Sequence[Fault]]:
        """The values of a categorical column; rows that have too many are faults, or truncated."""
        values, rows, places, lengths = self.lists(column)
        too_long = lengths > column.hotness
        if not too_long.any():
            return Flat(values, rows, places), ()
        if column.truncate is not None:
            return Flat(*raw.truncated(column, values, rows, places, lengths)[:3]), ()
        reason = raw.too_long(column)
        fault = (too_long, column.name, lambda row: self.value(column.name, row), lambda row: f"has {lengths[row]} {reason}")
        return Flat(values, rows, places).take(np.flatnonzero(~too_long[rows])), [fault]


class TableFile(ABC):
    """A file of rows.

    Attributes:
        path: Where it is.
    """

    path: Path

    @abstractmethod
    def columns(self) -> list[str] | None:
        """Names of its columns; none where the file is empty, `None` where the rows have them one by one."""

    @abstractmethod
    def blocks(self, names: Sequence[str], place: dict[str, int] | None = None) -> Iterator[Block]:
        """Some columns of its rows from `place` on, the `Block.place` of the last block that is known; all by default.

        Raises:
            ValueError: the file cannot be read.
        """

    def size(self) -> int:
        """Size relative to other files, at least 1."""
        return max(self.path.stat().st_size, 1)

    def rows(self) -> int | None:
        """Number of rows that it says it has, or `None` where it does not say."""
        return None

    def types(self, names: Sequence[str]) -> tuple[dict[str, Any], bool]:
        """Polars types of some columns, of those that the file has, and whether it has rows."""
        block = next(self.blocks(names), None)
        if block is None:
            return dict.fromkeys(names, pl.String), False
        return {name: block.series(name, np.arange(0)).dtype for name in names}, True

    def fingerprint(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON values that tell whether some columns of it are still the same."""
        return fingerprint(self.path)


@contextlib.contextmanager
def readable(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what says that a file cannot be read, `errors` too, into a `ValueError` that names it."""
    # A file may be broken in a way that Polars did not think of: it panics then.
    of_frames: tuple[type[BaseException], ...] = (pl.exceptions.PolarsError, pl.exceptions.PanicException, *errors)
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}. Copy or fetch the file again.") from error
    except of_frames as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"{path} cannot be read as a table: {reason}.") from error
