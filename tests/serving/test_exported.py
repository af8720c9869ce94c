"""Exports of `kd.export.savedmodel` from each backend, through the server over REST and gRPC."""

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.saved_models import Running, predict_request
from tensorflow_serving.apis import prediction_service_pb2_grpc

import keras_dlrm as kd
from keras_dlrm.serving import ModelConfig, Server

pytestmark = pytest.mark.usefixtures("quick_exports")

SCHEMA = kd.Schema(dense=["x", "y"], categorical=[kd.Categorical("a", 50), kd.Categorical("b", 20, hotness=3, combiner="mean")])


@pytest.mark.slow
def test_a_model_of_every_backend_answers_as_it_predicts(tmp_path):
    keras.utils.set_random_seed(0)
    model = kd.models.DLRM(SCHEMA, 4, bottom_mlp=[8, 4], top_mlp=[8, 1])
    kd.export.savedmodel(model, tmp_path / "clicks")
    rng = np.random.default_rng(0)
    batch = {"dense": rng.normal(size=(9, 2)).astype(np.float32), "sparse": rng.integers(-1, [50, 20, 20, 20], (9, 4))}
    batch["sparse"][0] = [50, 99, -5, 2**40]  # out of range: looked up as OOV, and no neighbor suffers
    expected = model.predict(batch, verbose=0)
    request = predict_request(batch)
    with Server([ModelConfig("clicks", tmp_path / "clicks")], port=0, grpc_port=0) as server:
        running = Running(f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}", str)
        status, answer = running.predict({"inputs": {name: array.tolist() for name, array in batch.items()}})
        assert status == 200, answer
        np.testing.assert_allclose(answer["outputs"], expected, atol=1e-6)
        none = {name: array[:0].tolist() for name, array in batch.items()}
        assert running.predict({"inputs": none}) == (200, {"outputs": []})
        with grpc.insecure_channel(running.grpc) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            response = stub.Predict(request, timeout=30)
        np.testing.assert_allclose(tf.make_ndarray(response.outputs["probability"]), expected, atol=1e-6)
        row = {name: array[:1].tolist() for name, array in batch.items()}
        _, explained = running.ask("/v1/models/clicks:explain", {"inputs": row})
        assert {feature["name"] for feature in explained["features"]} == {"x", "y", "a", "b"}
        np.testing.assert_allclose(explained["value"], expected[0, 0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="a saved model is loaded elsewhere, whatever backend saved it")
def test_a_functional_model_with_several_outputs_is_served_by_their_names(tmp_path):
    ids, age = keras.Input((4,), dtype="int32", name="ids"), keras.Input((2,), name="age")
    pooled = kd.layers.EmbeddingCollection(SCHEMA, 4, concatenate=True, seed=1)(ids)
    x = keras.layers.Dense(8, "relu", name="hidden")(keras.layers.Concatenate()([pooled, age]))
    click, time = keras.layers.Dense(1, "sigmoid", name="click")(x), keras.layers.Dense(2, name="time")(x)
    model = kd.models.SparseModel({"ids": ids, "age": age}, {"like": click, "dwell": time})
    version = kd.export.savedmodel(model, tmp_path / "own")
    assert kd.export.verify(version)["outputs"] == ["dwell", "like"]
    rng = np.random.default_rng(0)
    batch = {"age": rng.normal(size=(6, 2)).astype("float32"), "ids": rng.integers(-1, [50, 20, 20, 20], (6, 4))}
    batch["ids"][0] = [50, 99, -5, 2**40]
    expected = model.predict(batch, verbose=0)
    with Server([ModelConfig("own", tmp_path / "own")], port=0, grpc_port=0) as server:
        running = Running(f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}", str)
        inputs = {name: array.tolist() for name, array in batch.items()}
        status, answer = running.ask("/v1/models/own:predict", {"inputs": inputs})
    assert status == 200, answer
    assert set(answer["outputs"]) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(answer["outputs"][name], values, atol=1e-6)
