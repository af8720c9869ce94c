"""A model, its batches and its plans, for the tests of checkpoints."""

import numpy as np

import keras_dlrm as kd
from keras_dlrm.sharding.plan import ShardingPlan

SCHEMA = kd.Schema(
    dense=["x"],
    categorical=[kd.Categorical("a/b", 50), kd.Categorical("tags", 7, hotness=3), kd.Categorical("c", 31)],
    label="y",
)
SHAPES = {"a/b": (50, 8), "tags": (7, 8), "c": (31, 8)}


def batches(n):
    rng = np.random.default_rng(5)
    for _ in range(n):
        ids = np.concatenate([rng.integers(0, c.vocabulary_size, (16, c.hotness)) for c in SCHEMA.categorical], 1)
        x = {"dense": rng.normal(size=(16, 1)).astype("float32"), "sparse": ids}
        yield x, rng.integers(0, 2, 16).astype("float32")


def build(optimizer="adagrad", dim=8, plan=None, **options):
    def make():
        return kd.models.DLRM(SCHEMA, dim, bottom_mlp=[8, dim], top_mlp=[8, 1], seed=1, **options)

    if plan is None:
        model = make()
    else:
        with kd.sharding.use(plan):
            model = make()
    model.compile(optimizer)
    model.predict_on_batch(next(batches(1))[0])
    return model


def train(model, data):
    return [float(model.train_on_batch(x, y)) for x, y in data]


# A plan of several parts on one process: all kinds of parts without several processes.
PLANS = {
    "whole": None,
    "parts": ShardingPlan(1, SHAPES, {
        "a/b": kd.sharding.Placement("row_wise", (0, 0, 0)), "tags": kd.sharding.Placement("column_wise", (0, 0)),
        "c": kd.sharding.Placement("row_wise", (0, 0)),
    }),
    "others": ShardingPlan(1, SHAPES, {
        "a/b": kd.sharding.Placement("column_wise", (0, 0, 0, 0)), "tags": kd.sharding.Placement("replicate"),
        "c": kd.sharding.Placement("column_wise", (0, 0)),
    }),
}  # fmt: skip
