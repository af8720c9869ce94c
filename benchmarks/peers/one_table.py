"""A model of one embedding table and one Dense layer: `one_table.py ours|stock|keras_rs|tf_keras|bare BACKEND RULE ROWS`.

`ours` runs where keras_dlrm is installed, `stock` wherever Keras is, the others where `requirements-keras.txt` is. `bare`
is no model: it reads and writes the rows that a step touches with NumPy, which shows what the memory itself costs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
kind, backend, rule, rows = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
os.environ["KERAS_BACKEND"] = backend

import numpy as np  # noqa: E402
from contest import serve  # noqa: E402

BATCH, WIDTH = 2048, 16
# Who works on whole tables takes a second a step where they are large.
STEPS = 1000 if kind in ("ours", "bare") or rows < 1_000_000 else 10 if rows < 10_000_000 else 3
NAMES = {"sgd": "SGD", "adagrad": "Adagrad", "rowwise_adagrad": "RowwiseAdagrad", "adam": "Adam"}


def ours() -> Any:
    """An EmbeddingCollection in a SparseModel."""
    import keras

    import keras_dlrm as kd

    inputs = keras.Input((1,), dtype="int32")
    schema = kd.Schema(categorical=[kd.Categorical("a", rows)])
    pooled = kd.layers.EmbeddingCollection(schema, WIDTH, concatenate=True)(inputs)
    model = kd.models.SparseModel(inputs, keras.layers.Dense(1, "sigmoid")(pooled))
    model.compile(getattr(kd.optimizers, NAMES[rule])(0.01), "binary_crossentropy")
    return model


def stock() -> Any:
    """Keras 3's own layer and optimizers."""
    import keras

    inputs = keras.Input((1,), dtype="int32")
    pooled = keras.layers.Flatten()(keras.layers.Embedding(rows, WIDTH, embeddings_initializer="zeros")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(pooled))
    model.compile(NAMES[rule], "binary_crossentropy")
    return model


def keras_rs() -> Any:
    """DistributedEmbedding. Off a TPU it leaves the table to the model's optimizer, whatever its TableConfig says."""
    import keras
    import keras_rs as kr

    inputs = keras.Input((1,), dtype="int32")
    table = kr.layers.TableConfig(
        "a", rows, WIDTH, initializer="zeros", optimizer=keras.optimizers.get(NAMES[rule]), combiner="sum"
    )
    feature = kr.layers.FeatureConfig("a", table, input_shape=(BATCH, 1), output_shape=(BATCH, WIDTH))
    pooled = kr.layers.DistributedEmbedding({"a": feature})({"a": inputs})["a"]
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(pooled))
    model.compile(NAMES[rule], "binary_crossentropy")
    return model


def tf_keras() -> Any:
    """Keras 2 with its legacy optimizers: all sum what repeated ids get, SGD and Adagrad write a batch's rows only."""
    import tf_keras as keras

    inputs = keras.Input((1,), dtype="int32")
    pooled = keras.layers.Flatten()(keras.layers.Embedding(rows, WIDTH, embeddings_initializer="zeros")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(pooled))
    model.compile(getattr(keras.optimizers.legacy, NAMES[rule])(), "binary_crossentropy")
    return model


def bare() -> Any:
    """A model whose `fit` does nothing but read and write a batch's rows."""
    # Slots of a table's size; row-wise Adagrad's is a sixteenth of it.
    slots = {"sgd": [], "adagrad": [WIDTH], "rowwise_adagrad": [1], "adam": [WIDTH, WIDTH]}[rule]
    arrays = [np.ones((rows, width), np.float32) for width in (WIDTH, *slots)]

    class Bare:
        def fit(self, ids: Any, labels: Any, **options: Any) -> None:
            for start in range(0, len(ids), BATCH):
                unique = np.unique(ids[start : start + BATCH])
                for array in arrays:
                    array[unique] = array.take(unique, axis=0) * np.float32(0.99)

    return Bare()


ids = np.random.default_rng(0).integers(0, rows, (BATCH * STEPS, 1)).astype(np.int32)
labels = np.random.default_rng(1).integers(0, 2, (BATCH * STEPS, 1)).astype(np.float32)
model = {"ours": ours, "stock": stock, "keras_rs": keras_rs, "tf_keras": tf_keras, "bare": bare}[kind]()


def one_epoch() -> int:
    model.fit(ids, labels, batch_size=BATCH, shuffle=False, verbose=0)
    return STEPS


one_epoch()
serve(one_epoch)
