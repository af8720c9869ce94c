"""LiteRT files: equal to `predict` in the interpreter, and complete or absent."""

import sys

import keras
import numpy as np
import pytest

from keras_dlrm.export import litert
from keras_dlrm.models import DLRM, DCNv2
from keras_dlrm.schema.schema import Categorical, Schema

pytest.importorskip("tensorflow")

pytestmark = pytest.mark.usefixtures("quick_exports")

SCHEMA = Schema(
    dense=["I1", "I2"], categorical=[Categorical("C1", 7, oov=3), Categorical("tags", 5, hotness=2, combiner="mean", oov=None)]
)
WEIGHTED = Schema(categorical=[Categorical("C1", 40, hotness=2), Categorical("C2", 5)], weighted=True)


def answers(path, batch):
    from keras_dlrm.export.lite.conversion import answers

    return answers(path, batch)


@pytest.mark.slow
def test_a_model_of_any_backend_equals_predict(tmp_path):
    model = DLRM(SCHEMA, 4, [4], [3, 1], dropout=0.2, batch_norm=True, seed=0)
    path = litert(model, tmp_path / "new" / "m.tflite", "float32")
    batch = {
        "dense": np.array([[0.5, 1], [2, np.nan], [-1, 3]], np.float32),
        "sparse": np.array([[6, 1, -1], [1, 1, 1], [2**40, -2, 4]]),
    }
    expected = model.predict(batch, verbose=0)
    assert np.isnan(expected[:, 0]).tolist() == [False, True, False]
    np.testing.assert_allclose(answers(path, batch), expected, atol=1e-5)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["m.tflite"]


in_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends convert in a process of TensorFlow: tested above"
)


@pytest.mark.slow
@in_tensorflow
@pytest.mark.parametrize("tables", [None, "bfloat16", "int8", "int4"])
def test_weights_splits_and_quantized_tables_work(tmp_path, tables):
    options = {"quotient_remainder": {"threshold": 8}}
    model = DCNv2(WEIGHTED, 8, 1, [4], embedding_options=options, seed=0)
    assert litert(model, tmp_path / "m.tflite", tables).exists()  # compares with the live model


@pytest.mark.slow
@in_tensorflow
def test_fewer_bytes_are_fewer_bytes(tmp_path):
    model = DLRM(Schema(categorical=[Categorical("a", 20_000), Categorical("b", 10)]), 16, None, [1], seed=0)
    sizes = [litert(model, tmp_path / f"{t}.tflite", t).stat().st_size for t in ("float32", "int8")]
    assert sizes[1] < 0.3 * sizes[0]


@pytest.mark.slow
@in_tensorflow
def test_what_litert_has_no_operation_for_is_named(tmp_path):
    model = DLRM(WEIGHTED, 4, None, [3, 1], activation=keras.ops.erfinv)
    with pytest.raises(RuntimeError, match=r"dlrm does not convert.*\(Custom ops: Erfinv\); use kd.export.onnx"):
        litert(model, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_does_not_convert_is_said(tmp_path, monkeypatch):
    hashed = DLRM(Schema(categorical=[Categorical("a", 4, hashed=True), Categorical("b", 2)]), 2, None, [1])
    with pytest.raises(NotImplementedError, match="column 'a' is hashed.*use kd.export.onnx"):
        litert(hashed, tmp_path / "m.tflite")
    import keras_dlrm.export.lite.litert  # noqa: F401

    monkeypatch.setattr(sys.modules["keras_dlrm.export.lite.litert"], "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="the tables have 288 bytes.*at most 100.*tables='int8'"):
        litert(DLRM(SCHEMA, 4, [4], [3, 1]), tmp_path / "m.tflite")
    with pytest.raises(IsADirectoryError, match="is a folder; give a file"):
        litert(DLRM(SCHEMA, 4, [4], [3, 1]), tmp_path)
    with pytest.raises(TypeError, match="expected a model of kd.models .*not Sequential"):
        litert(keras.Sequential([keras.layers.Dense(1)]), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@in_tensorflow
def test_a_difference_leaves_nothing(tmp_path, monkeypatch):
    import keras_dlrm.export.lite.litert  # noqa: F401

    module = sys.modules["keras_dlrm.export.lite.litert"]
    monkeypatch.setattr(module, "expected_probabilities", lambda m, b, s: np.full((16, 1), 2.0))
    with pytest.raises(RuntimeError, match="16 rows the written model differs from the live one by"):
        litert(DLRM(WEIGHTED, 4, None, [1]), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []
