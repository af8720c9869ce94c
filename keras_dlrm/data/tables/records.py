"""Reader of TFRecord files, in blocks of rows."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.tables.block import Block, Faults, Numbers, TableFile, readable
from keras_dlrm.schema.columns import Categorical

BLOCK_RECORDS = 8192


class RecordBlock(Block):
    """Examples, whose features are all lists: by name, the values of all rows, and how many each row has, int64 (n,)."""

    def __init__(
        self, numbers: np.ndarray, faults: Faults, columns: Mapping[str, tuple[pl.Series, np.ndarray]]
    ) -> None:
        super().__init__(numbers, faults)
        self._columns = dict(columns)

    def _flat(self, name: str) -> tuple[pl.Series, np.ndarray, np.ndarray, np.ndarray]:
        values, lengths = self._columns[name]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        return values, rows, np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths), lengths

    def lists(self, column: Categorical) -> tuple[pl.Series, np.ndarray, np.ndarray, np.ndarray]:
        return self._flat(column.name)

    def numeric(self, name: str) -> Numbers:
        flat, rows, _, lengths = self._flat(name)
        values, lost = np.full(len(self), np.nan), np.zeros(len(self), bool)
        values[rows], lost[rows] = raw.numeric(flat, name, self.where)
        several = lengths > 1
        fault = (several, name, lambda row: self.value(name, row), "must be a single number")
        return Numbers(values, lost & ~several, lambda row: self.value(name, row), [fault] if several.any() else ())

    def value(self, name: str, row: int) -> object:
        values, lengths = self._columns[name]
        end = int(lengths[: row + 1].sum())
        value = values[end - int(lengths[row]) : end].to_list()
        return value[0] if len(value) == 1 else value

    def series(self, name: str, rows: np.ndarray) -> pl.Series:
        flat, rows_of, _, _ = self._flat(name)
        place = np.full(len(self), -1, np.int64)
        place[rows_of] = np.arange(len(rows_of))
        places = pl.Series(place[rows])
        return flat.gather(places.set(places < 0, None))

    def add_constant(self, name: str, value: str) -> None:
        if not self._columns[name][1].any():  # Examples may have the feature all the same
            rows, present = len(self), int(value != "")
            self._columns[name] = pl.Series([value] * (rows * present), dtype=pl.String), np.full(rows, present, np.int64)

    def check_single(self, name: str) -> None:
        several = self._columns[name][1] > 1
        self.faults.add(several, name, lambda row: self.value(name, row), "must be a single value")


class RecordFile(TableFile):
    """A `.tfrecord` file of serialized `tf.train.Example`, plain or `.gz`. An absent or empty feature is missing."""

    unit = "row"

    def __init__(self, path: Path) -> None:
        self.path = path

    def columns(self) -> list[str] | None:
        """`None`: a feature that no Example has is missing in every row."""
        return None

    def blocks(self, names: Sequence[str], place: dict[str, int] | None = None) -> Iterator[Block]:
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
