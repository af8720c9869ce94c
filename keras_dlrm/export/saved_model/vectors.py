"""Elements and codes of content vectors inside a TensorFlow graph, as `data.preprocessor` finds them on the host."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm.data.preprocessor.codebooks import codebooks
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.embeddings.table_rows import mix
from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.hashing import LARGEST
from keras_dlrm.schema.vectors import exact, level_rows, semantic


class ContentVectors:
    """Columns that a fitted preprocessor makes of content vectors, by name."""

    def __init__(self, preprocessor: Preprocessor) -> None:
        self._elements = [column for column in preprocessor.schema.dense if column.element is not None]
        self._codes = [
            (column, codebooks(preprocessor.dense_state[column.name], int(column.width or 1)))
            for column in semantic(preprocessor.schema.categorical)
        ]

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Raw columns, those of vectors float64 (B, width) → elements (B,) and ids of codes (B, L)."""
        elements = {column.name: columns[str(column.of)][:, column.element] for column in self._elements}
        return elements | {column.name: code_ids(column, books, columns[str(column.of)]) for column, books in self._codes}


def code_ids(column: Categorical, codebooks: Sequence[np.ndarray], vectors: Any) -> Any:
    """Content vectors, float64 (B, width), NaN where missing → ids of a column of codes, int64 (B, L)."""
    narrow = tf.cast(vectors, tf.float32)
    finite = tf.reduce_all(tf.math.is_finite(narrow), axis=1, keepdims=True)
    # In float64, as on the host: in float32 two nearly equal distances could be told apart in another way there.
    residual = tf.cast(tf.where(finite, narrow, 0.0), tf.float64)
    start, ids = 0, []
    number, mixed = tf.zeros(tf.shape(residual)[:1], tf.int64), tf.zeros(tf.shape(residual)[:1], tf.int32)
    for level, (book, size) in enumerate(zip(codebooks, level_rows(column), strict=True)):
        centers = tf.constant(book.astype(np.float64))
        code = tf.argmin(tf.reduce_sum(centers**2, axis=1) / 2 - tf.matmul(residual, centers, transpose_b=True), axis=1)
        residual -= tf.gather(centers, code)
        mixed = mix(mixed + tf.cast(code, tf.int32))
        if column.part == "codes":
            number = code
        elif exact(column, level, size):
            number = number * int(column.codes or 1) + code
        hashed = tf.cast(tf.bitwise.bitwise_and(mixed, LARGEST) % size, tf.int64)
        ids.append(start + (number if exact(column, level, size) else hashed))
        start += size
    return tf.where(finite, tf.stack(ids, axis=1), tf.constant(PADDING, tf.int64))
