"""A functional model of the user's own and its data, for the tests of `SparseModel`."""

from __future__ import annotations

import keras
import numpy as np

from keras_dlrm.layers import EmbeddingCollection
from keras_dlrm.models import SparseModel
from keras_dlrm.schema.schema import Categorical, Schema

SCHEMA = Schema(
    categorical=[Categorical("a", 50), Categorical("b", 5, hotness=2, combiner="mean"), Categorical("c", 5, table="b")]
)
RNG = np.random.default_rng(0)
# Few values, so that ids repeat in a batch; one column of the multi-hot pair is padded at times.
IDS = np.stack([RNG.integers(0, 4, 24), RNG.integers(0, 5, 24), RNG.integers(-1, 5, 24), RNG.integers(0, 5, 24)], 1)
AGE = RNG.random((24, 2)).astype("float32")
X = {"ids": IDS, "age": AGE}
Y = RNG.integers(0, 2, (24, 1)).astype("float32")


def functional(kind=SparseModel, dtype="int32"):
    ids, age = keras.Input((4,), dtype=dtype, name="ids"), keras.Input((2,), name="age")
    pooled = EmbeddingCollection(SCHEMA, 3, concatenate=True, seed=1, name="embeddings")(ids)
    x = keras.layers.Concatenate()([pooled, age])
    kernel = keras.initializers.RandomNormal(seed=2)
    return kind({"ids": ids, "age": age}, keras.layers.Dense(1, "sigmoid", kernel_initializer=kernel)(x))
