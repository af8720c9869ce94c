"""A model trained on JAX and one trained on torch, from raw values to probabilities, in every runtime that serves them."""

import importlib.util
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers.children import environment
from helpers.runtimes import ask, c_program, cli_run, saved, saved_model_cli, signature

# Each backend runs in a process of its own.
pytestmark = [pytest.mark.usefixtures("quick_exports"), pytest.mark.slow, pytest.mark.neutral]
USER = ["price", "city"]
# Trains, exports, and says what `predict` gives: for a packed batch, for raw rows, and for candidates of one user.
TRAIN = """
import json, sys
from pathlib import Path
import keras, numpy as np, polars as pl
import keras_dlrm as kd

folder, user = Path(sys.argv[1]), json.loads(sys.argv[2])
keras.utils.set_random_seed(3)
rng = np.random.default_rng(0)
def rows(n, cities):
    return pl.DataFrame({
        "price": rng.exponential(9, n), "age": rng.uniform(18, 80, n).round(),
        "city": rng.choice(cities, n), "tags": [[f"t{t}" for t in rng.integers(0, 9, k)] for k in rng.integers(1, 3, n)],
        "device": rng.integers(0, 4, n), "agent": [f"agent {a}" for a in rng.integers(0, 99, n)],
    })
log = rows(400, ["Rome", "Oslo", "Köln", "a|b"])
schema = kd.Schema(
    dense=[kd.Dense("price", "log1p_standardize"), kd.Dense("age", "quantile")],
    categorical=[kd.Categorical("city", oov=1), kd.Categorical("tags", hotness=2, combiner="mean", oov_rows=2),
                 kd.Categorical("device", 4), kd.Categorical("agent", 50, hashed=True)],
)
preprocessor = kd.data.Preprocessor.fit(schema, log)
batch = preprocessor.transform(log)
clicks = (log["price"].to_numpy() > 6).astype("float32")
model = kd.models.DLRM(preprocessor.schema, 8, [16, 8], [16, 1], seed=1)
before = model.predict(batch, verbose=0)
model.compile(optimizer=kd.optimizers.Adagrad(0.05), loss="binary_crossentropy")
model.fit(batch, clicks, batch_size=50, epochs=3, verbose=0)
assert np.abs(model.predict(batch, verbose=0) - before).max() > 0.01, "training changed nothing"
path = kd.export.savedmodel(model, folder / "clicks", preprocessor, user_columns=user)
kd.export.onnx(model, folder / "clicks.onnx")
asked = rows(7, ["Rome", "Oslo", "Lima"])
packed = {"dense": batch["dense"][:20], "sparse": batch["sparse"][:20].astype("int64")}
packed["sparse"][:3] = [[2**40] * 5, [-7] * 5, [-1] * 5]
one = asked.with_columns(*(pl.lit(asked[name][0]).alias(name) for name in user))
answer = lambda frame: model.predict(preprocessor.transform(frame), verbose=0).tolist()
print(json.dumps({
    "backend": keras.backend.backend(), "path": str(path), "raw": asked.to_dict(as_series=False),
    "packed": {key: values.tolist() for key, values in packed.items()},
    "expected": {"packed": model.predict(packed, verbose=0).tolist(), "raw": answer(asked), "rank": answer(one)},
}))
"""


@pytest.fixture(scope="module", params=[pytest.param("jax", marks=pytest.mark.soak), "torch"])
def trained(request, tmp_path_factory):
    """Report of the process that trained, and its folder."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    python = request.getfixturevalue(f"{request.param}_programs") / "python"
    command = [python, "-c", TRAIN, str(folder), json.dumps(USER)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(KERAS_BACKEND=request.param))
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["backend"] == request.param
    told["path"] = Path(told["path"])
    told["raw"]["tags"] = [[*tags, ""][:2] for tags in told["raw"]["tags"]]
    return told, folder


def signatures(told):
    """Name → inputs and what they should give."""
    expected, raw = told["expected"], told["raw"]
    rank = {name: values[:1] if name in USER else values for name, values in raw.items()}
    packed = told["packed"], expected["packed"]
    return {"serving_default": packed, "packed": packed, "raw": (raw, expected["raw"]), "rank": (rank, expected["rank"])}


def arrays(told):
    return {"dense": np.array(told["packed"]["dense"], np.float32), "sparse": np.array(told["packed"]["sparse"], np.int64)}


def equal(found, expected, atol=1e-6):
    np.testing.assert_allclose(np.array(found).reshape(-1, 1), np.array(expected), rtol=0, atol=atol)


def test_the_loader_of_tensorflow_1_without_keras(trained):
    told, _ = trained
    asked = signatures(told)
    answers = ask(told["path"], [[name, inputs] for name, (inputs, _) in asked.items()])
    for answer, (_, expected) in zip(answers, asked.values(), strict=True):
        equal(answer["probability"], expected)


def test_a_c_program(trained):
    told, _ = trained
    equal(c_program(told["path"], arrays(told)), told["expected"]["packed"])


def test_saved_model_cli_shows_scans_and_runs_it(trained, tensorflow_programs, tmp_path):
    told, _ = trained
    base, where = ["--dir", str(told["path"]), "--tag_set", "serve"], {"programs": tensorflow_programs, "folder": tmp_path}
    shown = saved_model_cli("show", *base, "--signature_def", "serving_default", **where)
    assert "inputs['sparse'] tensor_info:\n      dtype: DT_INT64\n      shape: (-1, 5)" in shown
    assert "does not contain the default denylisted ops" in saved_model_cli("scan", *base, **where)
    equal(cli_run(told["path"], arrays(told), **where), told["expected"]["packed"])


def test_classify_and_regress_are_named_for_tensorflow_serving(trained):
    path = trained[0]["path"]
    methods = {name: signature(path, name).method_name for name in ("classify", "regress", "serving_default")}
    assert methods == {
        "classify": "tensorflow/serving/classify",
        "regress": "tensorflow/serving/regress",
        "serving_default": "tensorflow/serving/predict",
    }


def test_only_operations_of_stock_tensorflow_are_in_the_graph(trained):
    from tensorflow.python.framework import op_def_registry

    (graph,) = saved(trained[0]["path"]).meta_graphs
    used = {node.op for node in graph.graph_def.node}
    used |= {node.op for f in graph.graph_def.library.function for node in f.node_def}
    functions = {f.signature.name for f in graph.graph_def.library.function}
    assert {op for op in used - functions if op_def_registry.get(op) is None} == set()


def test_onnx_runtime(trained):
    runtime = pytest.importorskip("onnxruntime")
    told, folder = trained
    session = runtime.InferenceSession(str(folder / "clicks.onnx"), providers=["CPUExecutionProvider"])
    equal(session.run(["probability"], arrays(told))[0], told["expected"]["packed"], atol=1e-5)


def test_the_stand_in_over_rest_and_grpc(trained, tmp_path):
    grpc = pytest.importorskip("grpc")
    pytest.importorskip("tensorflow_serving")
    import tensorflow as tf
    from helpers.saved_models import predict_request, serving
    from tensorflow.core.framework import types_pb2
    from tensorflow_serving.apis import prediction_service_pb2_grpc, regression_pb2

    told, folder = trained
    asked = signatures(told)
    raw = told["raw"]
    with serving(tmp_path / "log", folder / "clicks") as server, grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        metadata = server.ask("/v1/models/clicks/metadata")[1]["metadata"]["signature_def"]["signature_def"]
        for name, (inputs, expected) in asked.items():
            status, answer = server.predict({"signature_name": name, "inputs": inputs})
            assert status == 200, answer
            equal(answer["outputs"], expected)
            declared = metadata[name]["inputs"]
            dtypes = {key: tf.as_dtype(types_pb2.DataType.Value(declared[key]["dtype"])) for key in inputs}
            response = stub.Predict(predict_request(inputs, name, **dtypes), timeout=60)
            equal(tf.make_ndarray(response.outputs["probability"]), expected)
        rows = [dict(zip(raw, row, strict=True)) for row in zip(*raw.values(), strict=True)]
        status, answer = server.predict({"signature_name": "raw", "instances": rows})
        assert status == 200, answer
        equal(answer["predictions"], told["expected"]["raw"])
        request = regression_pb2.RegressionRequest()
        request.model_spec.name, request.model_spec.signature_name = "clicks", "regress"
        for row in rows:
            request.input.example_list.examples.append(_example(row))
        found = [entry.value for entry in stub.Regress(request, timeout=60).result.regressions]
        equal(found, told["expected"]["raw"])  # float32 prices: no quantile lies between them and the log's


def _example(row):
    """A `tf.train.Example` with the columns of a raw row."""
    import tensorflow as tf

    example = tf.train.Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        if isinstance(value, float):
            feature.float_list.value.append(value)
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            texts = [value] if isinstance(value, str) else [text for text in value if text]
            feature.bytes_list.value.extend(text.encode() for text in texts)
    return example
