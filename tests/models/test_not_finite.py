"""NaN and infinity: in weights, dense features and weights of ids they are seen in every answer, in `fit`, and by exports."""

import keras
import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm.models.not_finite import NotFinite, first_not_finite

SCHEMA = kd.Schema(
    dense=["x", "z"], categorical=[kd.Categorical("a", 9), kd.Categorical("b", 7, hotness=2, combiner="mean")], weighted=True
)
draw = np.random.default_rng(0)
X = {
    "dense": draw.normal(size=(8, 2)).astype("float32"),
    "sparse": draw.integers(0, 7, (8, 3)),
    "weights": draw.uniform(0.5, 1, (8, 3)).astype("float32"),
}
Y = np.array([0, 1] * 4, "float32")
MODELS = {
    "dot": lambda: kd.models.DLRM(SCHEMA, 4, [8, 4], [8, 8, 1], seed=0),
    "cross in half precision": lambda: kd.models.DLRM(
        SCHEMA, 4, [4], [8, 1], interaction="cross", cross_layers=1, activation="relu6", dtype="mixed_bfloat16", seed=0
    ),
    "dcnv2": lambda: kd.models.DCNv2(SCHEMA, 4, 1, [8, 4], structure="parallel", batch_norm=True, seed=0),
    "functional": lambda: functional(),
}


def functional():
    inputs = {
        "sparse": keras.Input((3,), dtype="int32", name="sparse"),
        "weights": keras.Input((3,), dtype="float32", name="weights"),
        "dense": keras.Input((2,), dtype="float32", name="dense"),
    }
    pooled = kd.layers.EmbeddingCollection(SCHEMA, 4, concatenate=True)({k: inputs[k] for k in ("sparse", "weights")})
    features = keras.layers.Concatenate()([kd.layers.BottomMLP([4])(inputs["dense"]), pooled])
    logits = kd.layers.TopMLP([8, 1])(features)
    return kd.models.SparseModel(inputs, keras.layers.Activation("sigmoid")(logits))


def answers(model, batch=X):
    return np.asarray(model.predict_on_batch(batch), "float32")[:, 0]


@pytest.mark.parametrize("name", MODELS)
def test_one_weight_of_nan_anywhere_is_nan_in_every_answer(name):
    model = MODELS[name]()
    assert np.isfinite(answers(model)).all()
    for variable in model.weights:
        before = np.array(keras.ops.convert_to_numpy(variable))
        if "moving_" in variable.path:
            continue
        wrong = before.copy()
        if "embeddings" in variable.path or "table" in variable.path:
            wrong[:] = np.nan  # which row is looked up depends on the example
        else:
            wrong.reshape(-1)[-1] = np.nan
        variable.assign(wrong)
        assert np.isnan(answers(model)).all(), variable.path
        assert first_not_finite(model) is not None
        variable.assign(before)
    assert first_not_finite(model) is None


@pytest.mark.parametrize("name", MODELS)
def test_a_row_with_infinity_is_nan_and_others_are_as_they_were(name):
    model = MODELS[name]()
    expected = answers(model)
    batch = {key: values.copy() for key, values in X.items()}
    inside = name != "functional"  # where the dense features go is that model's own affair
    for row, value in enumerate([np.inf, -np.inf, np.nan] if inside else []):
        batch["dense"][row, 1] = value
    batch["weights"][4:6, -1] = np.inf, -np.inf
    wrong = np.array([inside] * 3 + [False] + [True] * 2 + [False] * 2)
    batch["sparse"][6, -1], batch["weights"][6, -1] = -1, np.inf  # padding has no weight
    for got in (answers(model, batch), keras.ops.convert_to_numpy(model(model.narrowing.arrays(batch)))[:, 0]):
        np.testing.assert_array_equal(np.isnan(got), wrong)
        np.testing.assert_allclose(got[7], expected[7], rtol=0, atol=1e-6)


def test_evaluate_and_predict_see_them_too():
    model = MODELS["dot"]()
    model.compile("sgd", loss="binary_crossentropy")
    assert np.isfinite(model.evaluate(X, Y, verbose=0))
    batch = {**X, "dense": np.where(np.arange(8)[:, None] == 3, np.inf, X["dense"])}
    assert np.isnan(model.predict(batch, verbose=0)).sum() == 1
    model.top_mlp.dense_layers[0].kernel.assign(np.full(model.top_mlp.dense_layers[0].kernel.shape, np.nan))
    assert np.isnan(model.predict(X, verbose=0)).all() and np.isnan(model.evaluate(X, Y, verbose=0))


@pytest.mark.parametrize("rates", [(1e38, 0.1), (0.1, 1e38)])
def test_training_that_diverges_ends_with_the_variable_named(rates):
    model = MODELS["dot"]()
    model.compile(keras.optimizers.SGD(rates[0]), embedding_optimizer=kd.optimizers.SGD(rates[1]))
    with pytest.raises(NotFinite, match=r"training stopped: .*(dense_\d/kernel|table 'a').*Lower the learning rate"):
        model.fit(X, Y, batch_size=2, epochs=20, verbose=0, validation_data=(X, Y))


@pytest.mark.parametrize("by_batch", [True, False])
def test_nan_in_the_data_ends_training_before_anything_is_saved(by_batch, tmp_path):
    class Saved(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("a model of NaN was seen")

    model = MODELS["dcnv2"]()
    model.compile("sgd")
    batch = {**X, "dense": np.where(np.arange(8)[:, None] == (0 if by_batch else 7), np.nan, X["dense"])}
    with pytest.raises(NotFinite, match=r"loss is nan in epoch 1 at batch .*bias|loss is nan in epoch 1 at batch .*kernel"):
        model.fit(batch, Y, batch_size=2, shuffle=False, verbose=0, callbacks=[Saved()])


def test_a_model_of_ones_own_has_a_loss_of_nan_on_every_backend():
    model = functional()
    model.compile("sgd", loss="binary_crossentropy")
    batch = {**X, "dense": np.where(np.arange(8)[:, None] == 3, np.nan, X["dense"])}
    assert np.isnan(model.evaluate(batch, Y, verbose=0))
    with pytest.raises(NotFinite, match="loss is nan in epoch 1 at batch 1"):
        model.fit(batch, Y, verbose=0)


@pytest.mark.slow
def test_the_look_at_numbers_can_be_left_out_or_replaced():
    batch = {**X, "dense": np.full_like(X["dense"], np.nan)}
    for attribute, callbacks in ((False, None), (True, [keras.callbacks.TerminateOnNaN()])):
        model = MODELS["dot"]()
        model.stops_when_not_finite = attribute
        model.compile("sgd")
        assert np.isnan(model.fit(batch, Y, verbose=0, callbacks=callbacks).history["loss"][0])


@pytest.mark.parametrize("form", ["savedmodel", "onnx", "litert"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_of_nan_is_not_exported(form, value, tmp_path):
    model = MODELS["dot"]()
    kernel = model.bottom_mlp.dense_layers[1].kernel
    good = keras.ops.convert_to_numpy(kernel)
    kernel.assign(np.where(np.arange(8)[:, None] == 5, value, good))
    with pytest.raises(NotFinite, match=rf"^{form}: 'bottom_mlp/dense_1/kernel' has {value} at \(5, 0\)"):
        getattr(kd.export, form)(model, tmp_path / "made" / "m")
    kernel.assign(good)
    rows = model.embedding_tables()["b"]
    rows[3, 1] = value
    model.embeddings._write({"b": rows})
    with pytest.raises(NotFinite, match=rf"table 'b' has {value} in row 3, place 1"):
        getattr(kd.export, form)(model, tmp_path / "made" / "m")
    assert not (tmp_path / "made").exists()
