"""Packed rows as serialized `tf.train.Example` in TFRecord files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm.files.durable import check_file, whole
from keras_dlrm.schema.schema import PADDING, Schema

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
    for i, click in enumerate(label.tolist()):
        example = tf.train.Example()
        feature = example.features.feature
        feature[schema.label].float_list.value.append(click)
        if schema.sample_weight is not None and weight is not None:
            feature[schema.sample_weight].float_list.value.append(float(weight[i]))
        for j, name in enumerate(schema.dense_names):
            feature[name].float_list.value.append(dense[i][j])
        for column, offset in places:
            ids = [value for value in sparse[i][offset : offset + column.hotness] if value != PADDING]
            if ids:
                feature[column.name].int64_list.value.extend(ids)
        yield example.SerializeToString(deterministic=True)
