"""Models of one's own as ONNX: with Keras's operations, through tf2onnx, functional; what is not known is named."""

import sys

import keras
import numpy as np
import pytest
from helpers.onnx_files import SCHEMA, assert_equal_to_predict, batch_of

import keras_dlrm as kd
from keras_dlrm.export import onnx
from keras_dlrm.export.functional import output_names
from keras_dlrm.export.onnx_graph.files import new_session
from keras_dlrm.models import DCN
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.usefixtures("quick_exports")


class Own(ClickModel):
    """Written with what keras.ops and Keras's layers have."""

    def __init__(self, schema, **kwargs):
        super().__init__(schema, **kwargs)
        self.embeddings = kd.layers.EmbeddingCollection(schema, 6)
        self.norm = keras.layers.LayerNormalization()
        self.gate = keras.layers.Dense(3, activation="sigmoid")
        self.out = keras.layers.Dense(1)
        self.bent = keras.layers.LeakyReLU()
        self.embeddings.build((None, schema.width))
        self.norm.build((None, 2, 6))
        self.gate.build((None, 2, 6))
        self.out.build((None, 14))
        self.built = True

    def logits(self, inputs, training=None):
        x = self.norm(self.embeddings(inputs))
        gated = self.gate(x)[:, :, 1:] * keras.ops.sum(x, axis=-1, keepdims=True)
        first, second = keras.ops.split(x, 2, axis=1)
        pairs = keras.ops.concatenate([keras.ops.squeeze(first * second, 1), inputs["dense"]], axis=1)
        flat = keras.ops.reshape(gated, (-1, 4))
        top = keras.ops.max(x, axis=1)[:, ::3]
        return self.out(self.bent(keras.ops.concatenate([pairs, flat, keras.ops.square(top)], axis=-1)))


@keras.saving.register_keras_serializable("tests")
class Running(keras.layers.Layer):
    """With an operation that has no converter here."""

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="random_normal")

    def call(self, x, training=None):
        return keras.ops.cumsum(x * self.factor, axis=1)

    def compute_output_shape(self, input_shape):
        return input_shape


class WithRunning(Own):
    def __init__(self, schema, **kwargs):
        super().__init__(schema, **kwargs)
        self.out = keras.Sequential([Running(), keras.layers.Dense(1)])
        self.out.build((None, 14))


class Unknown(Own):
    def logits(self, inputs, training=None):
        return keras.ops.cumsum(super().logits(inputs, training), axis=1)


def test_models_of_one_s_own_export_too(tmp_path):
    model = Own(SCHEMA, seed=0)
    path = onnx(model, tmp_path / "m.onnx")
    for rows in (0, 1, 6):
        batch = batch_of(SCHEMA, rows)
        assert_equal_to_predict(model, path, batch)


def test_layers_that_are_not_known_go_through_tf2onnx(tmp_path, monkeypatch):
    model = WithRunning(SCHEMA, seed=0)
    path = onnx(model, tmp_path / "m.onnx")
    assert_equal_to_predict(model, path, batch_of(SCHEMA, 6))
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(NotImplementedError, match="Cumsum, in layer .* a Running, which needs the package tf2onnx"):
        onnx(model, tmp_path / "m.onnx")


def test_an_activation_that_leaves_keras_ops_goes_through_tf2onnx_with_its_mlp(tmp_path):
    model = DCN(Schema(dense=["x", "y", "z"]), cross_layers=1, deep_mlp=[8, 8], activation="mish", seed=0)
    assert onnx(model, tmp_path / "m.onnx").exists()  # compares with predict


def test_what_is_not_known_is_named(tmp_path):
    with pytest.raises(NotImplementedError, match="uses the Keras operation Cumsum, which is not known.*kd.export.savedmodel"):
        onnx(Unknown(SCHEMA, seed=0), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_functional_model_gives_its_own_outputs_by_name(tmp_path):
    schema = Schema(categorical=[Categorical("C1", 7, oov=3), Categorical("tags", 5, hotness=2, combiner="mean", oov=None)])
    ids, age = keras.Input((3,), dtype="int32", name="ids"), keras.Input((2,), name="age of")
    pooled = kd.layers.EmbeddingCollection(schema, 4, concatenate=True, seed=1)(ids)
    x = keras.layers.Dense(8, "relu", name="hidden")(keras.layers.Concatenate()([pooled, age]))
    click, time = keras.layers.Dense(1, "sigmoid", name="click")(x), keras.layers.Dense(2, name="time")(x)
    batch = {"age_of": np.ones((3, 2), "float32"), "ids": np.array([[6, 1, -1], [99, 2**40, 4], [-1, -1, -1]])}
    assert output_names(kd.models.SparseModel([ids, age], [click, time])) == ["click", "time"]
    model = kd.models.SparseModel([ids, age], {"like": click, "dwell": time})
    session = new_session(onnx(model, tmp_path / "own.onnx"))
    assert [output.name for output in session.get_outputs()] == ["dwell", "like"]
    expected = model.predict([batch["ids"], batch["age_of"]], verbose=0)
    for name, got in zip(["dwell", "like"], session.run(None, batch), strict=True):
        np.testing.assert_allclose(got, expected[name], atol=1e-6)
    onnx(model, tmp_path / "own.onnx", tables="int8")
    twice = kd.layers.EmbeddingCollection(schema, 4, concatenate=True)(ids)
    model = kd.models.SparseModel(ids, keras.layers.Add()([pooled, twice]))
    with pytest.raises(NotImplementedError, match="has 2 EmbeddingCollections.*kd.export.savedmodel"):
        onnx(model, tmp_path / "own.onnx")
    with pytest.raises(TypeError, match="litert.*has a schema.*kd.export.savedmodel"):
        kd.export.litert(model, tmp_path / "own.tflite")
    with pytest.raises(ValueError, match="user_columns=.* is for the models of kd.models that have a schema"):
        kd.export.savedmodel(model, tmp_path / "own", user_columns=["C1"])
    with pytest.raises(ValueError, match="outputs of the model are called .* a name of its own"):
        kd.export.savedmodel(kd.models.SparseModel([ids, age], [click, click]), tmp_path / "own")
