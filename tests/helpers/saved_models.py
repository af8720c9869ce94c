"""SavedModels made by hand, whose answers are known without them, and a server as a process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from helpers.children import environment
from keras_dlrm.schema.schema import Categorical, Dense, Schema

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Schema(
    dense=[Dense("price", missing=0.5), "age"],
    categorical=[Categorical("city", 10), Categorical("tags", 10, hotness=2)],
)
DENSE_WEIGHTS = np.array([0.5, -0.25], np.float32)
TABLE = np.linspace(-1, 1, 10, dtype=np.float32)
CITIES = {b"Oslo": 1.0, b"Rome": -1.0}


def probability(dense: Any, sparse: Any, bias: float = 0.0) -> np.ndarray:
    """Answers of `serving_default`: a sum, and one interaction, of price and city 7."""
    dense, sparse = np.asarray(dense, np.float64).reshape(-1, 2), np.asarray(sparse, int).reshape(-1, 3)
    rows = np.where(sparse >= 0, TABLE[np.clip(sparse, 0, 9)], 0)
    logit = bias + dense @ DENSE_WEIGHTS + rows.sum(1) + 2 * dense[:, 0] * (sparse[:, 0] == 7)
    return (1 / (1 + np.exp(-logit)))[:, None]


class Clicks(tf.Module):
    """Signatures of every kind that kd.export.savedmodel writes or will write."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = tf.Variable(bias, dtype=tf.float32)
        self.table = tf.Variable(TABLE)
        keys, values = tf.constant(list(CITIES)), tf.constant(list(CITIES.values()), tf.float32)
        self.cities = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0.0)

    @tf.function(
        input_signature=[tf.TensorSpec((None, 2), tf.float32, "dense"), tf.TensorSpec((None, 3), tf.int64, "sparse")]
    )
    def packed(self, dense, sparse):
        rows = tf.where(sparse >= 0, tf.gather(self.table, tf.clip_by_value(sparse, 0, 9)), 0.0)
        both = 2 * dense[:, 0] * tf.cast(sparse[:, 0] == 7, tf.float32)
        logit = self.bias + tf.linalg.matvec(dense, tf.constant(DENSE_WEIGHTS)) + tf.reduce_sum(rows, 1) + both
        return {"probability": tf.sigmoid(logit)[:, None]}

    @tf.function(
        input_signature=[
            tf.TensorSpec((None,), tf.string, "city"),
            tf.TensorSpec((None, None), tf.string, "tags"),
            tf.TensorSpec((None,), tf.float32, "price"),
        ]
    )
    def raw(self, city, tags, price):
        price = tf.where(tf.math.is_nan(price), 0.0, price)
        tag = tf.reduce_sum(tf.cast(tags != "", tf.float32), 1)
        logit = self.bias + self.cities.lookup(city) + price * self.cities.lookup(city) + tag
        return {"probability": tf.sigmoid(logit), "city_bytes": city, "seen": self.cities.lookup(city) != 0}

    @tf.function(input_signature=[tf.TensorSpec((1,), tf.int64, "user"), tf.TensorSpec((None,), tf.int64, "item")])
    def rank(self, user, item):
        return {"score": tf.cast(user * 100 + item, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "inputs")])
    def regress(self, inputs):
        return {"outputs": self._of_examples(inputs)[:, None]}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "inputs")])
    def classify(self, inputs):
        p = self._of_examples(inputs)
        labels = tf.tile(tf.constant([["no", "yes"]]), [tf.shape(inputs)[0], 1])
        return {"classes": labels, "scores": tf.stack([1 - p, p], 1)}

    def _of_examples(self, inputs):
        spec = {"price": tf.io.FixedLenFeature([], tf.float32), "city": tf.io.FixedLenFeature([], tf.string, "")}
        parsed = tf.io.parse_example(inputs, spec)
        return tf.sigmoid(self.bias + parsed["price"] + self.cities.lookup(parsed["city"]))

    @tf.function(input_signature=[tf.TensorSpec((), tf.string, "gate")])
    def wait(self, gate):
        """Runs until a file of this name is there: a request as long as a test needs it."""
        looks = tf.while_loop(
            lambda i: (tf.size(tf.io.matching_files(gate)) == 0) & (i < 10**7),
            lambda i: [i + 1],
            [tf.constant(0, tf.int64)],
        )
        return {"open": looks[0] < 10**7, "gate": gate}


def write_version(path: Path, bias: float = 0.0) -> Path:
    """A version with all these signatures, the schema, and two warm-up requests."""
    from tensorflow_serving.apis import prediction_log_pb2

    module = Clicks(bias)
    names = {"serving_default": module.packed, "raw": module.raw, "rank": module.rank, "wait": module.wait,
             "regress": module.regress, "classify": module.classify}  # fmt: skip
    with_predict = path.with_name(path.name + "-as-predict")
    tf.saved_model.save(module, str(with_predict), signatures=names)
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(with_predict))
    for key in ("regress", "classify"):
        updater.replace_method_name(signature_key=key, method_name=f"tensorflow/serving/{key}")
    updater.save(str(with_predict))
    with_predict.rename(path)
    extra = path / "assets.extra"
    extra.mkdir()
    SCHEMA.save(extra / "schema.json")
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for name, inputs in (
            ("serving_default", {"dense": np.ones((2, 2), np.float32), "sparse": np.array([[7, 1, -1]] * 2)}),
            ("raw", {"city": [b"Oslo"], "tags": [[b"a", b"b"]], "price": np.array([1.5], np.float32)}),
        ):
            request = predict_request(inputs, name)
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
    return path


def predict_request(inputs: dict[str, Any], signature: str = "", name: str = "clicks", **dtypes: Any) -> Any:
    """A `PredictRequest`; inputs are arrays, or tensors as they are sent, of the named dtypes."""
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    for key, value in inputs.items():
        sent = isinstance(value, (TensorProto, tf.compat.v1.NodeDef))
        request.inputs[key].CopyFrom(value if sent else tf.make_tensor_proto(value, dtypes.get(key)))
    return request


class Running:
    """A server, in this process or in one of its own: where it listens, what it logs, and requests to it."""

    def __init__(self, rest: str, grpc: str, log: Callable[[], str], process: subprocess.Popen | None = None) -> None:
        self.rest, self.grpc, self.log, self.process = rest, grpc, log, process

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and parsed JSON of a GET, or of a POST of `body` (bytes as they are, anything else as JSON)."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.rest}{path}", data, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        return status, json.loads(text)

    def predict(self, body: Any, target: str = "clicks") -> tuple[int, Any]:
        return self.ask(f"/v1/models/{target}:predict", body)

    def metrics(self) -> str:
        """Text that Prometheus reads."""
        with urllib.request.urlopen(f"http://{self.rest}/metrics", timeout=60) as response:
            return response.read().decode()

    def states(self, model: str = "clicks") -> dict[int, tuple[str, str]]:
        """State and error of each version."""
        status, answer = self.ask(f"/v1/models/{model}")
        assert status == 200, answer
        return {int(v["version"]): (v["state"], v["status"]["error_message"]) for v in answer["model_version_status"]}

    def wait_for(self, condition, seconds: float = 30.0) -> None:
        """Until the condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s in vain; log:\n{self.log()}"
            time.sleep(0.05)


@contextmanager
def serving(log: Path, *arguments: object) -> Iterator[Running]:
    """`keras-dlrm serve` on free ports; it must end with exit code 0 on SIGTERM."""
    command = [sys.executable, "-m", "keras_dlrm.cli", "serve", *map(str, arguments)]
    command += ["--port", "0", "--grpc-port", "0", "--json", "--poll-seconds", "0.1"]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment())
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        ready = json.loads(line)
        rest, grpc = f"127.0.0.1:{ready['port']}", f"127.0.0.1:{ready['grpc_port']}"
        yield Running(rest, grpc, log.read_text, process)
        if process.poll() is None:
            process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
