"""Calls of `fit`, `evaluate` and `predict` that Keras would take wrongly, or explain by its own insides."""

import keras
import numpy as np
import pytest

import keras_dlrm as kd

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 20), kd.Categorical("b", 9)])
X = SCHEMA.pack({"x": np.linspace(-1, 1, 6), "a": np.arange(6), "b": np.arange(6)})
Y = np.arange(6) % 2


def dlrm():
    return kd.models.DLRM(SCHEMA, embedding_dim=4, bottom_mlp=[4], top_mlp=[4, 1], seed=0)


@pytest.fixture(scope="module")
def model():
    model = dlrm()
    model.compile("sgd", loss="binary_crossentropy")
    return model


CALLS = {
    "fit": lambda model, x: model.fit(x, Y, verbose=0),
    "evaluate": lambda model, x: model.evaluate(x, Y, verbose=0),
    "train_on_batch": lambda model, x: model.train_on_batch(x, Y),
    "test_on_batch": lambda model, x: model.test_on_batch(x, Y),
    "predict": lambda model, x: model.predict(x, verbose=0),
    "predict_on_batch": lambda model, x: model.predict_on_batch(x),
}


@pytest.mark.parametrize("who", [name for name in CALLS if "predict" not in name])
def test_model_that_is_not_compiled_is_refused_by_name(who):
    with pytest.raises(ValueError, match=f"^{who}: dlrm.* is not compiled; call its compile"):
        CALLS[who](dlrm(), X)


@pytest.mark.parametrize("who", CALLS)
def test_inputs_of_different_rows_are_told(model, who):
    with pytest.raises(ValueError, match=f"^{who}: the inputs have different numbers of rows, {{'dense': 5, 'sparse': 6}}"):
        CALLS[who](model, {**X, "dense": X["dense"][:5]})


@pytest.mark.parametrize("who", CALLS)
@pytest.mark.parametrize(
    ("x", "words"),
    [
        ({"x": X["dense"][:, 0], "a": np.arange(6), "b": [[1]] * 6}, "the batch has .*'dense' is missing; use schema.pack"),
        ({"dense": X["dense"]}, "'sparse' is missing; use schema.pack"),
        ({**X, "weights": X["dense"]}, "the batch has 'weights', but the schema needs"),
        ({**X, "dense": X["dense"][:, 0]}, r"batch\['dense'\] has shape \(6,\); the schema needs \(B, 1\)"),
        ({**X, "sparse": X["sparse"][:, :1]}, r"batch\['sparse'\] has shape \(6, 1\); the schema needs \(B, 2\)"),
    ],
    ids=["raw columns", "one array", "weights", "rank", "width"],
)
def test_what_is_no_packed_batch_is_one_sentence(model, who, x, words):
    with pytest.raises(ValueError, match=words) as error:
        CALLS[who](model, x)
    assert "Exception encountered" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_batch_size_is_a_positive_integer(model, size):
    calls = {
        "fit": lambda: model.fit(X, Y, batch_size=size, verbose=0),
        "evaluate": lambda: model.evaluate(X, Y, batch_size=size, verbose=0),
        "predict": lambda: model.predict(X, batch_size=size, verbose=0),
    }
    for who, call in calls.items():
        with pytest.raises(ValueError, match=f"^{who}: batch_size={size} must be an integer >= 1"):
            call()
    with pytest.raises(ValueError, match="^fit: validation_batch_size="):
        model.fit(X, Y, validation_split=0.5, validation_batch_size=size, verbose=0)


def test_fractional_ids_are_told_before_keras(model):
    with pytest.raises(TypeError, match=r"^batch\['sparse'\] has dtype float32; ids must be integers"):
        model.predict({**X, "sparse": X["sparse"].astype("float32")}, verbose=0)


def test_batches_of_a_functional_model_are_its_own(model):
    inputs = keras.Input((2,), name="z")
    plain = kd.models.SparseModel({"z": inputs}, keras.layers.Dense(1)(inputs))
    assert plain.predict({"z": np.zeros((4, 2))}, verbose=0).shape == (4, 1)
