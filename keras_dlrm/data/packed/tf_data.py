"""Batches as a `tf.data.Dataset`, and as serialized `tf.train.Example` in TFRecord files."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from keras_dlrm.data.packed.format import LABEL, SAMPLE_WEIGHT, array_specs
from keras_dlrm.files.durable import check_file, whole
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Schema

OpError = tf.errors.OpError


def from_batches(
    epoch: Callable[[], Iterator[tuple[Any, ...]]],
    schema: Schema,
    rows: int | None = None,
    weighted: bool = False,
    length: int | None = None,
) -> tf.data.Dataset:
    """Packed batches of a schema as a dataset; `epoch` makes an iterator over them for each pass.

    They have as many `rows` each, with row weights where `weighted`, and a pass has `length` of them, where that is known.
    """
    specs = {
        name: tf.TensorSpec((rows,) if width is None else (rows, width), dtype, name)
        for name, (dtype, width) in array_specs(schema).items()
    }
    label, weight = specs.pop(LABEL), specs.pop(SAMPLE_WEIGHT, tf.TensorSpec((rows,), tf.float32, SAMPLE_WEIGHT))
    signature = (specs, label, weight) if weighted else (specs, label)
    dataset = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    # Keras counts one optimizer step too many where a dataset ends without having said when.
    return dataset if length is None else dataset.apply(tf.data.experimental.assert_cardinality(length))


def resumed_epochs(batches: Callable[[int], Any], schema: Schema, start_epoch: int, padded: bool, fixed: bool) -> tf.data.Dataset:
    """Batches as a dataset in which every pass that is read to its end counts as an epoch.

    `batches` makes those of an epoch by number, a sequence with a `batch_size`; `padded` tells that the last one is filled
    up, with sample weights of 0, and `fixed` that all have as many rows.
    """
    first = batches(start_epoch)
    number, whole = start_epoch, False

    def epoch() -> Iterator[tuple[Any, ...]]:
        # Keras stops after the last batch without asking for more, and looks at a first batch to build a model: an epoch
        # counts when its last batch was read.
        nonlocal number, whole
        number, whole = number + whole, False
        every = batches(number)
        for index in range(len(every)):
            batch = every[index]
            whole = index == len(every) - 1
            yield batch

    weighted = padded or schema.sample_weight is not None
    dataset = from_batches(epoch, schema, first.batch_size if fixed else None, weighted, len(first))
    settings = tf.data.Options()
    # `shard` has cut the rows already.
    settings.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # There is nothing to tune, and TensorFlow 2.21's tuning thread delays the end of an iterator: see step/tensorflow_step.py.
    settings.autotune.enabled = False
    return dataset.with_options(settings)


def example_features(message: bytes) -> Any:
    """Features by name of a serialized `tf.train.Example`; `ValueError` where it is none."""
    try:
        return tf.train.Example.FromString(message).features.feature
    except DecodeError as error:
        raise ValueError(str(error)) from error


def feature_values(feature: Any) -> tuple[str, list[Any]]:
    """Kind of a feature's list, empty where it has none, and its values; `UnicodeDecodeError` where a text is not UTF-8."""
    kind = feature.WhichOneof("kind") or ""
    values = list(getattr(feature, kind).value) if kind else []
    if kind == "float_list":
        return kind, [np.float32(value) for value in values]
    return kind, [value.decode() for value in values] if kind == "bytes_list" else values


# Rows that are turned into Examples at once.
ROWS = 8192


def write_examples(schema: Schema, batches: Iterable[Any], path: Path, overwrite: bool) -> None:
    """Write packed batches, `(batch, label)` or `(batch, label, sample_weight)`; see `Split.to_tfrecord`."""
    check_file(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = tf.io.TFRecordOptions(compression_type="GZIP") if path.suffix.lower() == ".gz" else None
    try:
        with whole(path) as written, tf.io.TFRecordWriter(str(written), options) as writer:
            for batch, label, *weights in batches:
                for message in _messages(schema, batch, label, *weights):
                    writer.write(message)
    except tf.errors.ResourceExhaustedError as error:
        raise OSError(f"{path}: not written, the disk is full ({error.message}); make room and run again.") from error


def _messages(schema: Schema, batch: Mapping[str, np.ndarray], label: np.ndarray, weight: Any = None) -> Iterator[bytes]:
    """Packed rows → serialized Examples."""
    dense = batch["dense"].tolist() if schema.dense else []
    sparse = batch["sparse"].tolist() if schema.categorical else []
    places = list(zip(schema.categorical, schema.offsets, strict=True))
    labels = label.reshape(len(label), -1).tolist()
    for i, clicks in enumerate(labels):
        example = tf.train.Example()
        feature = example.features.feature
        for name, click in zip(schema.labels, clicks, strict=True):
            if click == click:  # absent where it is missing
                feature[name].float_list.value.append(click)
        if schema.sample_weight is not None and weight is not None:
            feature[schema.sample_weight].float_list.value.append(float(weight[i]))
        for j, name in enumerate(schema.dense_names):
            feature[name].float_list.value.append(dense[i][j])
        for column, offset in places:
            ids = [value for value in sparse[i][offset : offset + column.hotness] if value != PADDING]
            if ids:
                feature[column.name].int64_list.value.extend(ids)
        yield example.SerializeToString(deterministic=True)
