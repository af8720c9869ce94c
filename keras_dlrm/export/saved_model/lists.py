"""Lists that are longer than a column's hotness, in the serving graph."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_dlrm.schema.columns import Categorical
from keras_dlrm.schema.schema import PADDING


def _is_missing(values: Any) -> Any:
    """Whether each of some ids or texts is a missing value."""
    return (values == "") | (values == str(PADDING)) if values.dtype == tf.string else values == PADDING


def cut(column: Categorical, values: Any) -> Any:
    """Values (B, k) → (B, hotness): those that the column's `truncate` keeps."""
    missing = _is_missing(values)
    fill = "" if values.dtype == tf.string else tf.constant(PADDING, values.dtype)
    padded = tf.pad(values, [[0, 0], [0, column.hotness]], constant_values=fill)
    if column.truncate == "first":
        return padded[:, : column.hotness]
    ends = tf.where(missing, 0, tf.range(1, tf.shape(values)[1] + 1))
    # A row without values has no largest one.
    used = tf.reduce_max(tf.pad(ends, [[0, 0], [1, 0]]), axis=1)
    starts = tf.maximum(used - column.hotness, 0)
    return tf.gather(padded, starts[:, None] + tf.range(column.hotness), batch_dims=1)


def cut_lists(column: Categorical, values: Any) -> Any:
    """Ragged values (B, k) → at most `hotness` of each row, the same ones as `cut` keeps."""
    if column.truncate == "first":
        return values[:, : column.hotness]
    places = tf.ragged.range(1, values.row_lengths() + 1, row_splits_dtype=tf.int64)
    ends = places.with_flat_values(tf.where(_is_missing(values.flat_values), tf.constant(0, tf.int64), places.flat_values))
    # The largest of no values is the smallest number.
    used = tf.repeat(tf.maximum(tf.reduce_max(ends, axis=1), 0), values.row_lengths())
    kept = (places.flat_values > used - column.hotness) & (places.flat_values <= used)
    return tf.ragged.boolean_mask(values, places.with_flat_values(kept))
