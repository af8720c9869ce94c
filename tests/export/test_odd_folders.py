"""Folders whose names look like patterns: everything that is written there is read there."""

import keras
import numpy as np
import pytest

import keras_dlrm as kd

pytestmark = pytest.mark.usefixtures("quick_exports")

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 50)])
X = {"dense": np.ones((4, 1), np.float32), "sparse": np.arange(4)[:, None]}
ODD = "runs [best]* ?{a}\\1\nnext/模型 %20$HOME~ 'b' \"c\""


@pytest.fixture
def model():
    model = kd.models.DLRM(SCHEMA, 4, [4], [4, 1], seed=0)
    model.compile("adagrad")
    return model


def test_models_and_checkpoints(model, tmp_path):
    (tmp_path / ODD).mkdir(parents=True)
    model.save(tmp_path / ODD / "m[1]*.keras")
    loaded = keras.saving.load_model(tmp_path / ODD / "m[1]*.keras")
    model.save_weights(tmp_path / ODD / "m[1]*.weights.h5")
    loaded.load_weights(tmp_path / ODD / "m[1]*.weights.h5")
    expected = model.predict_on_batch(X)
    np.testing.assert_allclose(loaded.predict_on_batch(X), expected, atol=1e-6)
    kd.checkpoint.save(model, tmp_path / ODD / "c?", 1)
    other = kd.models.DLRM(SCHEMA, 4, [4], [4, 1], seed=1)
    other.compile("adagrad")
    kd.checkpoint.restore(other, tmp_path / ODD / "c?")
    np.testing.assert_allclose(other.predict_on_batch(X), expected, atol=1e-6)


@pytest.mark.parametrize("tables", [None, "int8"])
def test_onnx_files_with_their_data(model, tmp_path, tables):
    pytest.importorskip("onnxruntime")
    from keras_dlrm.export.onnx_graph.files import new_session

    for _ in range(2):  # replaces the data of the first
        path = kd.export.onnx(model, tmp_path / ODD / "m[1]*.onnx", tables, external_data=True)
    assert len(list(path.parent.iterdir())) == 2
    kd.verify(path)
    answer = new_session(path).run(None, X)[0]
    np.testing.assert_allclose(answer, model.predict_on_batch(X), atol=1e-5 if tables is None else 0.05)


@pytest.mark.slow
def test_litert_files(model, tmp_path):
    pytest.importorskip("tensorflow")
    from keras_dlrm.export.lite.conversion import answers

    if keras.backend.backend() != "tensorflow":
        pytest.skip("other backends convert in a process of TensorFlow, as for SavedModels")
    path = kd.export.litert(model, tmp_path / ODD / "m[1]*.tflite")
    np.testing.assert_allclose(answers(path, X), model.predict_on_batch(X), atol=1e-5)
