"""Batches as a `tf.data.Dataset`, and what else reading through TensorFlow needs of it by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from keras_dlrm.data.packed.format import LABEL, SAMPLE_WEIGHT, array_specs
from keras_dlrm.schema.schema import Schema

if TYPE_CHECKING:
    from keras_dlrm.data.packed.packed import Split

OpError = tf.errors.OpError


def from_batches(
    epoch: Callable[[], Iterator[tuple[Any, ...]]],
    schema: Schema,
    rows: int | None = None,
    weighted: bool = False,
    length: int | None = None,
) -> tf.data.Dataset:
    """Packed batches of a schema as a dataset.

    Args:
        epoch: Makes an iterator over `(batch, label)`, or `(batch, label, sample_weight)`, for each pass.
        schema: The batches' schema.
        rows: Rows of every batch, where they are all of one size.
        weighted: Whether batches come with sample weights.
        length: How many batches a pass has, where that is known.
    """
    specs = {
        name: tf.TensorSpec((rows,) if width is None else (rows, width), dtype, name)
        for name, (dtype, width) in array_specs(schema).items()
    }
    label, weight = specs.pop(LABEL), specs.pop(SAMPLE_WEIGHT, tf.TensorSpec((rows,), tf.float32, SAMPLE_WEIGHT))
    signature = (specs, label, weight) if weighted else (specs, label)
    found = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    # Keras counts one optimizer step too many where a dataset ends without having said when.
    return found if length is None else found.apply(tf.data.experimental.assert_cardinality(length))


def split_dataset(split: Split, batch_size: int, start_epoch: int = 0, **options: Any) -> tf.data.Dataset:
    """What `Split.to_tf_dataset` returns; arguments as there."""
    dataset = split.dataset(batch_size, start_epoch=start_epoch, **options)
    number, whole = start_epoch, False

    def epoch() -> Iterator[tuple[Any, ...]]:
        # Keras stops after the last batch without asking for more, and looks at a first batch to build a model: an epoch
        # counts when its last batch was read.
        nonlocal number, whole
        number, whole = number + whole, False
        batches = split.dataset(batch_size, start_epoch=number, **options)
        for index in range(len(batches)):
            batch = batches[index]
            whole = index == len(batches) - 1
            yield batch

    last = options.get("last", "keep")
    rows = None if last == "keep" else dataset.batch_size
    found = from_batches(epoch, split.schema, rows, last == "pad" or split.schema.sample_weight is not None, len(dataset))
    settings = tf.data.Options()
    # `shard` has cut the rows already.
    settings.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # There is nothing to tune, and TensorFlow 2.21's tuning thread delays the end of an iterator: see backend/tensorflow.
    settings.autotune.enabled = False
    return found.with_options(settings)


def example_features(message: bytes) -> Any:
    """Features by name of a serialised `tf.train.Example`.

    Raises:
        ValueError: it is none.
    """
    try:
        return tf.train.Example.FromString(message).features.feature
    except DecodeError as error:
        raise ValueError(str(error)) from error
