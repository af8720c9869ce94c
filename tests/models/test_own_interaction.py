"""Interaction layers of one's own: what is refused when the model is made, and what is saved with it."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dlrm as kd

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 20), kd.Categorical("b", 9)])
BATCH = SCHEMA.pack({"x": np.linspace(-1, 1, 6), "a": np.arange(6), "b": np.arange(6)})


class Sides(keras.layers.Layer):
    """All vectors side by side; subclasses change that."""

    def call(self, vectors):
        return ops.reshape(vectors, (-1, 12))


@keras.saving.register_keras_serializable("test_own_interaction")
class NoKeywords(Sides):
    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, vectors):
        return self.dense(super().call(vectors))


@keras.saving.register_keras_serializable("test_own_interaction")
class Forgets(Sides):
    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def get_config(self):
        return super().get_config()

    def call(self, vectors):
        return self.factor * super().call(vectors)


@keras.saving.register_keras_serializable("test_own_interaction")
class Function(Sides):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, vectors):
        return self.function(vectors)


@keras.saving.register_keras_serializable("test_own_interaction")
class cat_dot(Sides):  # noqa: N801
    """A class with the name of an interaction of the package."""


def dlrm(interaction):
    return kd.models.DLRM(SCHEMA, embedding_dim=4, bottom_mlp=[4], top_mlp=[4, 1], interaction=interaction, seed=0)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda: NoKeywords(3), "NoKeywords 'no_keywords' cannot be made again from its configuration .* get_config"),
        (lambda: Forgets(3.0), "Forgets 'forgets' cannot be made again .*it gives other outputs then"),
        (lambda: Function(lambda v: v), "Function 'function' cannot be made again"),
    ],
    ids=["no keywords", "a configuration that forgets", "a function"],
)
def test_layer_that_a_saved_model_would_lose_is_refused(layer, words):
    with pytest.raises(ValueError, match=f"(?s)^DLRM: interaction {words}"):
        dlrm(layer())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda v: v[:, :0], r"maps vectors \(2, 3, 4\) to \(2, 0, 4\)"),
        (lambda v: v[:2, 0], r"maps vectors \(3, 3, 4\) to \(2, 4\)"),
        (lambda v: ops.matmul(v[:, 0], ops.transpose(v[:, 1])), r"maps vectors \(3, 3, 4\) to \(3, 3\)"),
        (lambda v: ops.sum(v), r"maps vectors \(2, 3, 4\) to "),
        (lambda v: ops.cast(v[:, 0], "int32"), "gives int32, through which nothing learns"),
        (lambda v: ops.reshape(v, (-1, 7)), r"fails for vectors \(B, 3, 4\)"),
    ],
    ids=["no width", "fixed rows", "the batch's own width", "a scalar", "integers", "an error"],
)
def test_layer_with_another_output_is_refused(function, words):
    with pytest.raises(ValueError, match=f"^DLRM: interaction Function 'function' {words}"):
        dlrm(Function(function))


def test_layer_whose_class_has_the_name_of_an_interaction_is_a_layer_all_the_same():
    model = dlrm(cat_dot())
    assert int(np.prod(model.top_mlp.weights[0].shape)) == 12 * 4  # its output alone
    assert model.predict(BATCH, verbose=0).shape == (6, 1)


@pytest.mark.slow
def test_several_layers_with_weights_and_dropout_are_saved(tmp_path):
    layer = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(5), keras.layers.Dropout(0.5)])
    model = dlrm(layer)
    model.compile("adagrad", loss="binary_crossentropy")
    model.fit(BATCH, np.arange(6) % 2, verbose=0)
    model.save(tmp_path / "own.keras")
    loaded = keras.saving.load_model(tmp_path / "own.keras")
    np.testing.assert_array_equal(loaded.predict(BATCH, verbose=0), model.predict(BATCH, verbose=0))


class Unregistered(Sides):
    """A class that `load_model` is to be given."""


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (Unregistered, {"custom_objects": {"Unregistered": Unregistered}}),
        (lambda: keras.Sequential([Unregistered()]), {"custom_objects": {"Unregistered": Unregistered}}),
        (lambda: keras.layers.Lambda(lambda v: 2 * v[:, 0], output_shape=(4,)), {"safe_mode": False}),
    ],
    ids=["a layer", "a layer within", "a lambda"],
)
def test_layer_that_loading_has_to_be_told_of_is_taken(layer, options, tmp_path):
    model = dlrm(layer())
    model.save(tmp_path / "own.keras")
    loaded = keras.saving.load_model(tmp_path / "own.keras", **options)
    np.testing.assert_array_equal(loaded.predict(BATCH, verbose=0), model.predict(BATCH, verbose=0))
