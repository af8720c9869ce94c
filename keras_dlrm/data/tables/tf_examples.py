"""Rows as serialized `tf.train.Example` in TFRecord files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf
from google.protobuf.message import DecodeError

from keras_dlrm.data.kernels import normal_form

# Bytes of a record besides its content: its length, and two checksums.
_FRAME = 16
_DTYPES = {"bytes_list": tf.string, "float_list": tf.float32, "int64_list": tf.int64}
NO_EXAMPLE = "the record is no tf.train.Example"
NOT_UTF8 = "must be UTF-8 text"

Columns = dict[str, tuple[pl.Series, np.ndarray]]
# Column, value and reason of each row that is at fault.
Wrong = dict[int, tuple[str, str, str]]


def read(path: Path, names: Sequence[str], first: int, records: int) -> Iterator[tuple[Columns, Wrong, int, int]]:
    """Features of the Examples of a file, plain or `.gz`, from record `first` on, at most `records` at once.

    Returns:
        Iterator of the features by name, all values and how many each row has, int64 (n,); what is wrong with some of
        the rows; how many rows there are; and the bytes that these records take.
    """
    compression = "GZIP" if path.suffix.lower() == ".gz" else ""
    dataset = tf.data.TFRecordDataset(str(path), compression).skip(first).batch(records)
    kinds: dict[str, str] = {}
    batches = iter(dataset)
    while True:
        try:
            batch = next(batches, None)
        except tf.errors.OpError as error:
            raise ValueError(
                f"{path} cannot be read: {error.message}. Copy or fetch the file again; it must hold TFRecords."
            ) from error
        if batch is None:
            return
        columns, wrong = _parse(batch, names, kinds)
        yield columns, wrong, len(batch), int(tf.reduce_sum(tf.strings.length(batch))) + _FRAME * len(batch)


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
    values: dict[str, list[Any]] = {name: [] for name in names}
    lengths: dict[str, list[int]] = {name: [] for name in names}
    kinds_of: dict[str, set[str]] = {name: set() for name in names}
    for number, message in enumerate(messages):
        row: dict[str, tuple[str, list[Any]]] = {}
        try:
            features: Mapping[str, Any] = tf.train.Example.FromString(message).features.feature
            for name in names:
                row[name] = _values(features, name)
        except DecodeError:
            wrong[number] = "", "", NO_EXAMPLE
        except UnicodeDecodeError as error:
            wrong[number], row = (name, str(error.object)[2:-1], NOT_UTF8), {}
        for name in names:
            kind, entries = row.get(name, ("", []))
            values[name] += entries
            lengths[name].append(len(entries))
            kinds_of[name] |= {kind} if entries else set()
    columns: Columns = {}
    for name in names:
        if len(kinds_of[name]) == 1:
            kinds[name] = next(iter(kinds_of[name]))
        series = values[name] if len(kinds_of[name]) < 2 else [normal_form.text(value) for value in values[name]]
        kind = next(iter(kinds_of[name]), "int64_list")
        dtype = {"int64_list": pl.Int64, "float_list": pl.Float32, "bytes_list": pl.String}[kind]
        columns[name] = (
            pl.Series(series, dtype=dtype if len(kinds_of[name]) < 2 else pl.String),
            np.array(lengths[name], np.int64),
        )
    return columns, wrong


def _values(features: Mapping[str, Any], name: str) -> tuple[str, list[Any]]:
    """Kind and values of a feature; `UnicodeDecodeError` where a text is not UTF-8."""
    if name not in features:
        return "", []
    kind = features[name].WhichOneof("kind") or ""
    values = list(getattr(features[name], kind).value) if kind else []
    if kind == "float_list":
        return kind, [np.float32(value) for value in values]
    return kind, [value.decode() for value in values] if kind == "bytes_list" else values
