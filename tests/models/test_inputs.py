"""Batches whose shape TensorFlow does not know beforehand, and ids that are sparse, ragged or no integers."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pandas as pd
import polars as pl
import pytest
from keras import ops

import keras_dlrm as kd

BACKEND = keras.backend.backend()
SCHEMA = kd.Schema(dense=["x", "z"], categorical=[kd.Categorical("a", 50), kd.Categorical("b", 20, hotness=2)])
RNG = np.random.default_rng(0)
X = {"dense": RNG.normal(size=(8, 2)).astype("float32"), "sparse": RNG.integers(-1, 20, (8, 3))}
Y = RNG.integers(0, 2, (8, 1)).astype("float32")


def dlrm():
    return kd.models.DLRM(SCHEMA, embedding_dim=2, bottom_mlp=[2], top_mlp=[1], seed=0)


def functional():
    ids, dense = keras.Input((3,), dtype="int32", name="sparse"), keras.Input((2,), name="dense")
    pooled = kd.layers.EmbeddingCollection(SCHEMA, 2, concatenate=True, seed=1)(ids)
    kernel = keras.initializers.RandomNormal(seed=2)
    p = keras.layers.Dense(1, "sigmoid", kernel_initializer=kernel, name="top")(keras.layers.Concatenate()([pooled, dense]))
    return kd.models.SparseModel({"sparse": ids, "dense": dense}, p)


class Subclassed(kd.models.SparseModel):
    def __init__(self):
        super().__init__()
        self.tables = kd.layers.EmbeddingCollection(SCHEMA, 2, concatenate=True, seed=1)
        self.top = keras.layers.Dense(1, "sigmoid", kernel_initializer=keras.initializers.RandomNormal(seed=2))

    def call(self, inputs):
        return self.top(ops.concatenate([self.tables(inputs["sparse"]), inputs["dense"]], axis=1))


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX and torch are given arrays")
@pytest.mark.parametrize(
    ("make", "shape"),
    [(dlrm, (None, None)), (functional, None), (Subclassed, (None, None))],
    ids=["dlrm width", "functional rank", "subclassed width"],
)
def test_batches_of_unknown_width_or_rank_train_evaluate_and_predict_as_arrays(make, shape):
    tf = pytest.importorskip("tensorflow")

    def batches():
        for i in (0, 4):
            yield {name: a[i : i + 4] for name, a in X.items()}, Y[i : i + 4]

    inputs = {"dense": tf.TensorSpec(shape, tf.float32), "sparse": tf.TensorSpec(shape, tf.int64)}
    dataset = tf.data.Dataset.from_generator(batches, output_signature=(inputs, tf.TensorSpec(shape, tf.float32)))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(2))
    seen = []
    for data in ((dataset,), (X, Y)):
        options = {"verbose": 0} if data[0] is dataset else {"batch_size": 4, "verbose": 0}
        model = make()
        model.compile("sgd", loss="binary_crossentropy", metrics=["auc"])
        model.fit(*data, shuffle=False, **options)
        evaluated = model.evaluate(*data, **options)
        predicted = model.predict(dataset.map(lambda x, y: x) if data[0] is dataset else X, **options)
        seen.append([*model.get_weights(), np.array(evaluated), predicted])
    for got, expected in zip(*seen, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def not_dense(ids):
    scipy = pytest.importorskip("scipy.sparse")
    yield scipy.csr_matrix(ids)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        yield tf.RaggedTensor.from_tensor(ids)
        yield tf.sparse.from_dense(ids)
    if BACKEND == "jax":
        import jax.experimental.sparse

        yield jax.experimental.sparse.BCOO.fromdense(ops.convert_to_tensor(ids, "int32"))
    if BACKEND == "torch":
        yield ops.convert_to_tensor(ids).to_sparse()


@pytest.mark.parametrize("make", [dlrm, functional], ids=["dlrm", "functional"])
def test_sparse_ragged_masked_and_fractional_inputs_are_refused_by_name(make):
    model = make()
    model.compile("sgd", loss="binary_crossentropy")
    for ids in not_dense(X["sparse"]):
        x = {**X, "sparse": ids}
        for who, call in (
            ("fit", lambda: model.fit(x, Y, verbose=0)),  # noqa: B023
            ("evaluate", lambda: model.evaluate(x, Y, verbose=0)),  # noqa: B023
            ("train_on_batch", lambda: model.train_on_batch(x, Y)),  # noqa: B023
            ("predict", lambda: model.predict(x, verbose=0)),  # noqa: B023
        ):
            with pytest.raises(
                TypeError, match=rf"^{who}: an input of ids is a {type(ids).__name__}, which is sparse or ragged"
            ):
                call()
    for key in X:
        x = {**X, key: np.ma.array(X[key], mask=np.arange(X[key].size).reshape(X[key].shape) == 0)}
        for who, call in (
            ("fit", lambda: model.fit(x, Y, verbose=0)),  # noqa: B023
            ("predict", lambda: model.predict(x, verbose=0)),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=f"^{who}: an input has masked values"):
                call()
    for dtype in ("float32", "float64", "bool"):
        with pytest.raises(TypeError, match="sparse'.* has dtype (float|bool).*integer"):
            make().predict({**X, "sparse": X["sparse"].astype(dtype)}, verbose=0)
    fresh = make()
    fresh.compile("sgd", loss="binary_crossentropy")
    with pytest.raises(TypeError, match="sparse'.* has dtype float32.*integer"):
        fresh.fit({**X, "sparse": X["sparse"].astype("float32")}, Y, verbose=0)


@pytest.mark.parametrize("make", [dlrm, functional], ids=["dlrm", "functional"])
def test_integers_of_every_width_are_ids(make):
    model, ids = make(), np.maximum(X["sparse"], 0)
    expected = ops.convert_to_numpy(model(keras.tree.map_structure(ops.convert_to_tensor, {**X, "sparse": ids.astype("int32")})))
    for dtype in ("int64", "uint8", "uint32"):
        got = ops.convert_to_numpy(model(keras.tree.map_structure(ops.convert_to_tensor, {**X, "sparse": ids.astype(dtype)})))
        np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=dtype)


@pytest.mark.parametrize("frame", ["pandas", "polars"])
def test_rows_of_named_columns_are_refused_with_what_makes_batches_of_them(frame):
    rows = {"pandas": pd, "polars": pl}[frame].DataFrame({"x": [1.0], "z": [1.0], "a": [3], "b": ["u"]})
    model = dlrm()
    model.compile("sgd")
    for call in (lambda: model.fit(rows, Y[:1]), lambda: model.evaluate(rows, Y[:1]), lambda: model.predict(rows)):
        with pytest.raises(TypeError, match=r"x is a DataFrame, .* takes packed batches: use preprocessor\.transform\(frame\)"):
            call()


def test_tools_see_the_parameters_of_keras():
    for name in ("fit", "evaluate", "predict"):
        ours, its = (inspect.signature(getattr(of, name)) for of in (kd.models.DLRM, keras.Model))
        assert ours == its and "batch_size" in ours.parameters
    assert kd.models.DLRM.fit.__doc__.startswith("Train as")
