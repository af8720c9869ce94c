"""Reader of TFRecord files (`tf.train.Example`), in blocks of rows."""

import dataclasses
import gzip
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf

from keras_dlrm.data.kernels import normal_form
from keras_dlrm.data.packed.tf_data import example_features, feature_values
from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.preprocessor.block import Block, Faults, Numbers
from keras_dlrm.data.tables.table_file import TableFile, readable
from keras_dlrm.schema.columns import Categorical

BLOCK_RECORDS = 8192
# Bytes of a record besides its content: its length, and two checksums.
_FRAME = 16
_DTYPES = {"bytes_list": tf.string, "float_list": tf.float32, "int64_list": tf.int64}
NO_EXAMPLE = "the record is not a tf.train.Example"
NOT_UTF8 = "must be UTF-8 text"

Columns = dict[str, tuple[pl.Series, np.ndarray]]
# Column, value and reason of each row that is at fault.
Wrong = dict[int, tuple[str, str, str]]


@dataclasses.dataclass(eq=False)
class RecordBlock(Block):
    """Examples, whose features are all lists: by name, the values of all rows, and how many each row has, int64 (n,)."""

    features: Columns

    def _flat(self, name: str) -> tuple[pl.Series, np.ndarray, np.ndarray, np.ndarray]:
        values, lengths = self.features[name]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        return values, rows, np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths), lengths

    def lists(self, column: Categorical) -> tuple[pl.Series, np.ndarray, np.ndarray, np.ndarray]:
        return self._flat(column.name)

    def numeric(self, name: str) -> Numbers:
        flat, rows, _, lengths = self._flat(name)
        values, lost = np.full(len(self), np.nan), np.zeros(len(self), bool)
        values[rows], lost[rows] = raw.numeric(flat, name, self.where)
        several = lengths > 1
        fault = (several, lambda row: self.value(name, row), "must be a single number")
        return Numbers(values, lost & ~several, lambda row: self.value(name, row), [fault] if several.any() else ())

    def value(self, name: str, row: int) -> object:
        values, lengths = self.features[name]
        end = int(lengths[: row + 1].sum())
        value = values[end - int(lengths[row]) : end].to_list()
        return value[0] if len(value) == 1 else value

    def series(self, name: str, rows: np.ndarray) -> pl.Series:
        flat, owners, _, _ = self._flat(name)
        place = np.full(len(self), -1, np.int64)
        place[owners] = np.arange(len(owners))
        places = pl.Series(place[rows])
        return flat.gather(places.set(places < 0, None))

    def add_constant(self, name: str, value: str) -> None:
        if not self.features[name][1].any():  # Examples may have the feature all the same
            rows, present = len(self), int(value != "")
            self.features[name] = pl.Series([value] * (rows * present), dtype=pl.String), np.full(rows, present, np.int64)

    def check_single(self, name: str) -> None:
        several = self.features[name][1] > 1
        self.faults.add(name, (several, lambda row: self.value(name, row), "must be a single value"))


class RecordFile(TableFile):
    """A `.tfrecord` file of serialized `tf.train.Example`, plain or `.gz`. An absent or empty feature is missing."""

    unit = "row"

    def columns(self) -> list[str] | None:
        """`None`: a feature that no Example has is missing in every row."""
        return None

    def blocks(self, names: Sequence[str], place: dict[str, int] | None = None) -> Iterator[Block]:
        packed = self.path.suffix.lower() == ".gz"
        if packed:
            # TensorFlow takes a packed file that ends too early for a whole one where it was cut between two records.
            with readable(self.path), gzip.open(self.path, "rb") as file:
                while file.read(1 << 20):
                    pass
        row, offset = (place["row"], place["bytes"]) if place else (0, 0)
        # How large a packed file is when it is unpacked is a guess; it is for the progress display only.
        size = self.size() * (4 if packed else 1)
        records = tf.data.TFRecordDataset(str(self.path.absolute()), "GZIP" if packed else "").skip(row).batch(BLOCK_RECORDS)
        batches = iter(records)
        kinds: dict[str, str] = {}
        while True:
            try:
                batch = next(batches, None)
            except tf.errors.OpError as error:
                raise ValueError(
                    f"{self.path} cannot be read: {error.message}. Copy or fetch the file again; it must hold TFRecords."
                ) from error
            if batch is None:
                return
            columns, wrong = _parse(batch, names, kinds)
            rows = len(batch)
            numbers = np.arange(row, row + rows)
            faults = Faults(str(self.path), self.unit, numbers)
            for number, (column, value, reason) in wrong.items():
                faults.add(column, (numbers == row + number, lambda _, value=value: value, reason))  # type: ignore[misc]
            block = RecordBlock(faults, columns)
            row += rows
            offset += int(tf.reduce_sum(tf.strings.length(batch))) + _FRAME * rows
            block.place, block.share = {"row": row, "bytes": offset}, min(offset / size, 1.0)
            yield block


def _parse(batch: tf.Tensor, names: Sequence[str], kinds: dict[str, str]) -> tuple[Columns, Wrong]:
    """Features of serialized Examples. `kinds` keeps what kind of list each feature was found to be."""
    wanted = {
        name: tf.io.RaggedFeature(_DTYPES[kinds.get(name, "int64_list")], row_splits_dtype=tf.int64) for name in names
    }
    try:
        parsed = tf.io.parse_example(batch, wanted)
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
        # TensorFlow quotes the record in its message, and cannot make a Python text of it where it is not UTF-8.
        return _one_by_one(batch.numpy(), names, kinds)
    columns: Columns = {}
    for name in names:
        values = parsed[name].values.numpy()
        if values.dtype == object:
            texts = pl.Series(values.tolist(), dtype=pl.Binary).cast(pl.String, strict=False)
            if texts.null_count():
                return _one_by_one(batch.numpy(), names, kinds)
            columns[name] = texts, parsed[name].row_lengths().numpy()
        else:
            columns[name] = pl.Series(values), parsed[name].row_lengths().numpy()
    return columns, {}


def _one_by_one(messages: Iterable[bytes], names: Sequence[str], kinds: dict[str, str]) -> tuple[Columns, Wrong]:
    """Result of `_parse` where a record is damaged, or a feature is of another kind than was thought."""
    wrong: Wrong = {}
    rows: list[dict[str, tuple[str, list[Any]]]] = []
    for number, message in enumerate(messages):
        row: dict[str, tuple[str, list[Any]]] = {}
        try:
            features = example_features(message)
            for name in names:
                row[name] = feature_values(features[name]) if name in features else ("", [])
        except UnicodeDecodeError as error:
            wrong[number], row = (name, str(error.object)[2:-1], NOT_UTF8), {}
        except ValueError:
            wrong[number] = "", "", NO_EXAMPLE
        rows.append(row)
    columns: Columns = {}
    for name in names:
        entries = [row.get(name, ("", [])) for row in rows]
        values, found = [value for _, part in entries for value in part], {kind for kind, part in entries if part}
        if len(found) > 1:
            series = pl.Series([normal_form.text(value) for value in values], dtype=pl.String)
        else:
            kind = next(iter(found), "int64_list")
            if found:
                kinds[name] = kind
            dtypes = {"int64_list": pl.Int64, "float_list": pl.Float32, "bytes_list": pl.String}
            series = pl.Series(values, dtype=dtypes[kind])
        columns[name] = series, np.array([len(part) for _, part in entries], np.int64)
    return columns, wrong
