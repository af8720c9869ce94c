"""TFRecord files in blocks of rows."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_dlrm.data.tables.block import Block, Faults, TableFile
from keras_dlrm.data.tables.text import readable

if TYPE_CHECKING:
    import polars as pl

BLOCK_RECORDS = 8192


class RecordBlock(Block):
    """Examples, whose features are all lists.

    Args:
        numbers: int64 (n,), the Examples' numbers in the file, counted from 0.
        faults: What is wrong with them.
        columns: By name, the values of all rows, and how many each row has, int64 (n,).
    """

    def __init__(
        self, numbers: np.ndarray, faults: Faults, columns: Mapping[str, tuple[pl.Series, np.ndarray]]
    ) -> None:
        super().__init__(numbers, faults)
        self._columns = dict(columns)

    def add(self, name: str, values: pl.Series, lengths: np.ndarray) -> None:
        """One more column."""
        self._columns[name] = values, lengths

    def flat(self, name: str) -> tuple[pl.Series, np.ndarray, np.ndarray, np.ndarray]:
        """The values of a column, their rows and places, and how many each row has."""
        values, lengths = self._columns[name]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        return values, rows, np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths), lengths

    def value(self, name: str, row: int) -> object:
        """The values of one row; one alone without a list."""
        values, lengths = self._columns[name]
        end = int(lengths[: row + 1].sum())
        found = values[end - int(lengths[row]) : end].to_list()
        return found[0] if len(found) == 1 else found


class RecordFile(TableFile):
    """A `.tfrecord` file of serialised `tf.train.Example`, plain or `.gz`.

    A feature that is absent or empty is missing.

    Args:
        path: The file.
    """

    unit = "row"

    def __init__(self, path: Path) -> None:
        self.path = path

    def columns(self) -> list[str] | None:
        """`None`: a feature that no Example has is missing in every row."""
        return None

    def blocks(self, names: Sequence[str], place: dict[str, int] | None = None) -> Iterator[Block]:
        """The rows from `place` on, the `Block.place` of the last block that is known; all of them by default.

        Raises:
            ValueError: the file cannot be read.
        """
        from keras_dlrm.data.tables.tf_examples import read

        if self.path.suffix.lower() == ".gz":
            # TensorFlow takes a packed file that ends too early for a whole one where it was cut between two records.
            with readable(self.path), gzip.open(self.path, "rb") as file:
                while file.read(1 << 20):
                    pass
        row, offset = (place["row"], place["bytes"]) if place else (0, 0)
        size = max(self.path.stat().st_size, 1)
        # How large a packed file is when it is unpacked is a guess; it is for the progress display only.
        size *= 4 if self.path.suffix.lower() == ".gz" else 1
        for columns, wrong, rows, length in read(self.path.absolute(), names, row, BLOCK_RECORDS):
            numbers = np.arange(row, row + rows)
            faults = Faults(str(self.path), self.unit, numbers)
            for column, reason in dict.fromkeys((column, reason) for column, _, reason in wrong.values()):
                mask = np.zeros(rows, bool)
                mask[[number for number, (at, _, why) in wrong.items() if (at, why) == (column, reason)]] = True
                faults.add(mask, column, lambda number, wrong=wrong: wrong[number][1], reason)  # type: ignore[misc]
            block = RecordBlock(numbers, faults, columns)
            row += rows
            offset += length
            block.place, block.share = {"row": row, "bytes": offset}, min(offset / size, 1.0)
            yield block
