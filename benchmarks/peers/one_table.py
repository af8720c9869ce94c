"""A model of one embedding table, ours or stock Keras's: `one_table.py ours|stock BACKEND RULE ROWS`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
kind, backend, rule, rows = sys.argv[1:5]
os.environ["KERAS_BACKEND"] = backend

import keras  # noqa: E402
import numpy as np  # noqa: E402
from contest import serve  # noqa: E402

import keras_dlrm as kd  # noqa: E402

BATCH, WIDTH, STEPS = 2048, 16, 20
ids = np.random.default_rng(0).integers(0, int(rows), (BATCH * STEPS, 1)).astype(np.int32)
labels = np.random.default_rng(1).integers(0, 2, (BATCH * STEPS, 1)).astype(np.float32)
inputs = keras.Input((1,), dtype="int32")
if kind == "ours":
    schema = kd.Schema(categorical=[kd.Categorical("a", int(rows))])
    pooled = kd.layers.EmbeddingCollection(schema, WIDTH, concatenate=True)(inputs)
    model = kd.models.SparseModel(inputs, keras.layers.Dense(1, "sigmoid")(pooled))
    optimizer = {"sgd": "SGD", "adagrad": "Adagrad", "rowwise_adagrad": "RowwiseAdagrad", "adam": "Adam"}[rule]
    model.compile(getattr(kd.optimizers, optimizer)(0.01), loss="binary_crossentropy")
else:
    pooled = keras.layers.Flatten()(keras.layers.Embedding(int(rows), WIDTH, embeddings_initializer="zeros")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(pooled))
    model.compile({"sgd": "SGD", "adagrad": "Adagrad", "adam": "Adam"}[rule], loss="binary_crossentropy")


def one_epoch() -> int:
    model.fit(ids, labels, batch_size=BATCH, shuffle=False, verbose=0)
    return STEPS


one_epoch()
serve(one_epoch)
