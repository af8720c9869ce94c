"""TFRS's own Ranking models, converted in their process: `TF_USE_LEGACY_KERAS=1 python tfrs_peer.py FOLDER`.

Writes, for each case, the converted model (`CASE.keras`), and inputs and TFRS's probabilities (`CASE.npz`); and
`refused.json`, what from_tfrs says of models that it cannot convert.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

import keras_dlrm as kd
from keras_dlrm.schema.schema import Categorical, Schema

DIM, DENSE, ROWS = 4, 3, 50
# By name: rows, most ids, combiner and table. Not in the order of their names.
FEATURES = {"user": (9, 1, "sum", "user"), "tags": (5, 3, "mean", "tags"), "last": (5, 4, "sum", "item"),
            "item": (5, 1, "sum", "item")}  # fmt: skip
layers = tf.keras.layers
blocks, interactions = tfrs.layers.blocks, tfrs.layers.feature_interaction


def tpu_embedding(names=tuple(FEATURES)):
    config, tables = tf.tpu.experimental.embedding, {}
    for name in names:
        rows, _, combiner, table = FEATURES[name]
        tables.setdefault(table, config.TableConfig(rows, DIM, tf.initializers.RandomNormal(), combiner=combiner, name=table))
    return {name: config.FeatureConfig(tables[FEATURES[name][3]]) for name in names}


def whole(names=tuple(FEATURES)):
    return tfrs.layers.embedding.TPUEmbedding(tpu_embedding(names), tf.keras.optimizers.legacy.SGD(0.1))


def partial(threshold):
    features = tpu_embedding(("user", "item"))
    return tfrs.experimental.layers.embedding.PartialTPUEmbedding(
        features, tf.keras.optimizers.legacy.SGD(0.1), size_threshold=threshold
    )


def bottom():
    return blocks.MLP([7, DIM], final_activation="relu")


def top():
    return blocks.MLP([6, 1], final_activation="sigmoid")


def cross(*more):
    return tf.keras.Sequential([layers.Concatenate(), *more])


CASES = {
    "dot": lambda: (whole(), bottom(), interactions.DotInteraction(), top(), True),
    "dot_itself": lambda: (whole(), bottom(), interactions.DotInteraction(self_interaction=True), top(), True),
    "dot_alone": lambda: (whole(), bottom(), interactions.DotInteraction(), top(), False),
    "dot_skip_gather": lambda: (whole(), bottom(), interactions.DotInteraction(True, skip_gather=True), top(), True),
    "sequentials": lambda: (
        whole(),
        tf.keras.Sequential([layers.Dense(7, "relu"), layers.Dense(DIM, "relu", use_bias=False)]),
        interactions.DotInteraction(),
        tf.keras.Sequential([blocks.MLP([6, 1]), layers.Activation("sigmoid")]),
        True,
    ),
    "tanh": lambda: (
        whole(),
        blocks.MLP([7, DIM], activation="tanh", final_activation="tanh"),
        interactions.DotInteraction(),
        blocks.MLP([6, 1], activation="tanh", final_activation="sigmoid"),
        True,
    ),
    "cross": lambda: (whole(), bottom(), cross(interactions.Cross()), top(), False),
    "cross_low_rank": lambda: (whole(), bottom(), cross(interactions.Cross(projection_dim=3)), top(), False),
    "crosses": lambda: (whole(), bottom(), cross(interactions.MultiLayerDCN(projection_dim=3, num_layers=2)), top(), False),
    "cross_beside_dense": lambda: (whole(), bottom(), cross(interactions.Cross()), top(), True),
    "crosses_beside_dense": lambda: (whole(), bottom(), cross(interactions.MultiLayerDCN(3)), top(), True),
    "partial": lambda: (partial(6), bottom(), interactions.DotInteraction(), top(), True),
    "keras_embeddings": lambda: (partial(None), bottom(), interactions.DotInteraction(), top(), True),
}


def ranking(parts):
    embedding, low, interaction, high, concat = parts
    return tfrs.experimental.models.Ranking(embedding, low, interaction, high, concat_dense=concat)


def inputs(names, seed):
    draw = np.random.default_rng(seed)
    dense = draw.normal(size=(ROWS, DENSE)).astype("float32")
    bags = {}
    for name in names:
        rows, most, _, _ = FEATURES[name]
        counts = draw.integers(1, most + 1, ROWS)
        bags[name] = [draw.integers(0, rows, n).tolist() for n in counts]
    sparse = {
        name: tf.constant([bag[0] for bag in bags[name]])
        if FEATURES[name][1] == 1
        else tf.ragged.constant(bags[name], dtype=tf.int64)
        for name in names
    }
    padded = {name: np.array([bag + [-1] * (FEATURES[name][1] - len(bag)) for bag in bags[name]], np.int64) for name in names}
    return {"dense_features": tf.constant(dense), "sparse_features": sparse}, {"dense": dense, **padded}


def called(parts, names, seed=0):
    model = ranking(parts)
    batch, arrays = inputs(names, seed)
    model(batch)
    draw = np.random.default_rng(seed)
    for variable in model.variables:  # biases begin with 0, and so may cross layers
        variable.assign(draw.normal(size=variable.shape) * 0.4)
    return model, arrays, model(batch).numpy()


def refused():
    """Messages about models without a counterpart, and about schemas that do not fit."""
    names = tuple(FEATURES)
    models = {
        "two crosses": (whole(), bottom(), cross(interactions.Cross(), interactions.Cross()), top(), False),
        "diag_scale": (whole(), bottom(), cross(interactions.Cross(diag_scale=0.5)), top(), False),
        "preactivation": (whole(), bottom(), cross(interactions.Cross(preactivation="relu")), top(), False),
        "linear bottom": (whole(), blocks.MLP([7, DIM]), interactions.DotInteraction(), top(), True),
        "no sigmoid": (whole(), bottom(), interactions.DotInteraction(), blocks.MLP([6, 1]), True),
        "dropout": (whole(), tf.keras.Sequential([bottom(), layers.Dropout(0.1)]), interactions.DotInteraction(), top(), True),
        "concatenation": (whole(), bottom(), layers.Concatenate(), top(), True),
    }
    said = {}
    for name, parts in models.items():
        said[name] = message(lambda parts=parts: kd.convert.from_tfrs(called(parts, names)[0]))
    fresh = ranking(CASES["dot"]())
    said["not called"] = message(lambda: kd.convert.from_tfrs(fresh))
    said["not a Ranking"] = message(lambda: kd.convert.from_tfrs(tf.keras.Sequential([layers.Dense(1)])))
    model = called(CASES["dot"](), names)[0]
    good = [Categorical("item", 5), Categorical("last", 5, 4, table="item"), Categorical("tags", 5, 3, "mean"),
            Categorical("user", 9)]  # fmt: skip
    schemas = {
        "dense": Schema(["a"], good),
        "names": Schema(["a", "b", "c"], good[:3]),
        "sizes": Schema(["a", "b", "c"], [*good[:3], Categorical("user", 8)]),
        "combiner": Schema(["a", "b", "c"], [*good[:2], Categorical("tags", 5, 3), good[3]]),
        "sharing": Schema(["a", "b", "c"], [*good[:2], Categorical("tags", 5, 3, "mean", table="item"), good[3]]),
    }  # fmt: skip
    for name, schema in schemas.items():
        said[name] = message(lambda schema=schema: kd.convert.from_tfrs(model, schema))
    return said


def message(call):
    try:
        call()
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "converted"


def main(folder):
    for seed, (case, parts) in enumerate(CASES.items()):
        names = ("user", "item") if case in ("partial", "keras_embeddings") else tuple(FEATURES)
        model, arrays, expected = called(parts(), names, seed)
        # A schema in an order of its own for one case, TFRS's for the others.
        schema = None
        if case == "dot_itself":
            schema = Schema(
                ["x", "y", "z"],
                [Categorical("user", 9, oov=None), Categorical("tags", 5, 3, "mean"), Categorical("item", 5),
                 Categorical("last", 5, 4, table="item")],
            )  # fmt: skip
        converted = kd.convert.from_tfrs(model, schema, hotness={name: FEATURES[name][1] for name in names})
        converted.save(folder / f"{case}.keras")
        np.savez(folder / f"{case}.npz", expected=expected, **arrays)
    (folder / "refused.json").write_text(json.dumps(refused(), indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
