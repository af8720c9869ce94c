"""Rows of a table as they come from a file, and what is wrong with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.jobs.staging import fingerprint
from keras_dlrm.data.preprocessor.bad_rows import EXAMPLES, BadRow

# Most rows that are in memory at once, of each block that is under way.
BLOCK_ROWS = 65_536


class Faults:
    """What is wrong with the rows of one block. Of a row's faults the one that is added first counts.

    Args:
        file: Name of the file.
        unit: `"line"` or `"row"`.
        numbers: int64 (n,), what the rows are called.
    """

    def __init__(self, file: str, unit: str, numbers: np.ndarray) -> None:
        self.file, self._unit, self._numbers = file, unit, numbers
        self._any = False
        self.bad = np.zeros(len(numbers), bool)
        self._found: list[tuple[int, BadRow]] = []

    def add(
        self,
        mask: np.ndarray,
        column: str,
        value: Callable[[int], object] | None,
        reason: str | Callable[[int], str],
    ) -> None:
        """Take rows as bad.

        Args:
            mask: bool (n,), which rows.
            column: Column that is at fault, or empty.
            value: Gives its value in a row.
            reason: What it must be.
        """
        if not mask.any():
            return
        rows = np.flatnonzero(mask & ~self.bad)
        self.bad |= mask
        self._any = True
        for row in rows[:EXAMPLES].tolist():
            given = value(row) if value is not None else ""
            why = reason if isinstance(reason, str) else reason(row)
            shown = given if isinstance(given, str) else repr(given)
            self._found.append((row, BadRow(self.file, int(self._numbers[row]), column, shown, why, self._unit)))

    def __bool__(self) -> bool:
        return self._any

    def first(self) -> tuple[list[BadRow], int]:
        """The first bad rows in the order of the file, and how many there are besides."""
        found = [bad for _, bad in sorted(self._found, key=lambda entry: entry[0])][:EXAMPLES]
        return found, int(self.bad.sum()) - len(found)


class Block:
    """Consecutive rows of one file.

    Args:
        numbers: int64 (n,), what the rows are called in messages.
        faults: What is wrong with them so far.

    Attributes:
        place: Where to go on after the block: JSON values that only the reader of the file understands.
        share: Share of the file that was read up to the end of the block.
    """

    def __init__(self, numbers: np.ndarray, faults: Faults) -> None:
        self.numbers, self.faults = numbers, faults
        self.place: dict[str, int] = {}
        self.share = 1.0

    def __len__(self) -> int:
        return len(self.numbers)


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
        """Its rows from `place` on, the `Block.place` of the last block that is known."""

    def size(self) -> int:
        """How large it is beside other files, at least 1."""
        return max(self.path.stat().st_size, 1)

    def fingerprint(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON values that tell whether some columns of it are still the same."""
        return fingerprint(self.path)
