"""A model that answers requests: `serving.py KIND FOLDER`, with the files that `benchmarks/serving.py` put into the folder.

For each line `BATCH CALLS` on standard input it answers so many requests and prints their milliseconds as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

KIND, FOLDER = sys.argv[1], Path(sys.argv[2])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
Answer = Callable[[np.ndarray, np.ndarray], Any]


def savedmodel(version: str) -> Answer:
    """The signature, called as a server calls it."""
    import tensorflow as tf

    # A function of a model that is gone has lost its variables.
    answers.model = tf.saved_model.load(str(FOLDER / version / "1"))  # type: ignore[attr-defined]
    serve = answers.model.signatures["serving_default"]  # type: ignore[attr-defined]
    return lambda dense, sparse: serve(dense=tf.constant(dense), sparse=tf.constant(sparse))["probability"].numpy()


def session(version: str) -> Answer:
    """The signature in a session whose operations run in the caller's thread."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=-1)
    runs = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with runs.graph.as_default():
        meta = tf.compat.v1.saved_model.load(runs, ["serve"], str(FOLDER / version / "1"))
        signature = meta.signature_def["serving_default"]
        fed = [signature.inputs[name].name for name in ("dense", "sparse")]
        return runs.make_callable(signature.outputs["probability"].name, feed_list=fed)  # type: ignore[no-any-return]


def onnx(file: str) -> Answer:
    """ONNX Runtime with its own settings."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(FOLDER / file), providers=["CPUExecutionProvider"])
    return lambda dense, sparse: session.run(None, {"dense": dense, "sparse": sparse})[0]


def predict(_: str) -> Answer:
    """`predict_on_batch` of the live model."""
    import keras

    import keras_dlrm  # noqa: F401  (its classes)

    model = keras.saving.load_model(FOLDER / "model.keras", compile=False)
    return lambda dense, sparse: model.predict_on_batch({"dense": dense, "sparse": sparse})


def torch_model(how: str) -> Answer:
    """The PyTorch reference's model, an EmbeddingBag per table: eager, traced and frozen, or compiled."""
    import torch

    rows, dim = 100_000, 16

    def mlp(*widths: int, last: torch.nn.Module) -> torch.nn.Sequential:
        layers: list[torch.nn.Module] = []
        for i in range(len(widths) - 1):
            layers += [torch.nn.Linear(widths[i], widths[i + 1]), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1], last)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = torch.nn.ModuleList(torch.nn.EmbeddingBag(rows, dim, mode="sum") for _ in range(26))
            self.bottom = mlp(13, 512, 256, 64, dim, last=torch.nn.ReLU())
            self.top = mlp(dim + 27 * 26 // 2, 512, 256, 1, last=torch.nn.Sigmoid())
            self.lower = torch.tril_indices(27, 27, -1)

        def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
            x = self.bottom(dense)
            # Of (B, 1) ids an EmbeddingBag needs no offsets.
            vectors = [x, *(table(sparse[:, k : k + 1]) for k, table in enumerate(self.tables))]
            features = torch.stack(vectors, 1)
            products = torch.bmm(features, features.transpose(1, 2))
            return self.top(torch.cat([x, products[:, self.lower[0], self.lower[1]]], 1))

    model: Any = Model().eval()
    if how == "traced":
        example = torch.zeros(3, 13), torch.zeros(3, 26, dtype=torch.int64)
        model = torch.jit.freeze(torch.jit.trace(model, example))
    elif how == "compiled":
        model = torch.compile(model, dynamic=True)

    def answer(dense: np.ndarray, sparse: np.ndarray) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(dense), torch.from_numpy(sparse)).numpy()

    return answer


def answers() -> Answer:
    """The contestant's way to answer."""
    makers = {
        "savedmodel": savedmodel, "plain": savedmodel, "caller": session, "onnx": onnx, "predict": predict, "torch": torch_model
    }  # fmt: skip
    name, _, variant = KIND.partition(":")
    return makers[name](variant)


def main() -> None:
    """Answer until standard input ends."""
    answer = answers()
    draw = np.random.default_rng(0)
    print("ready", flush=True)
    for line in sys.stdin:
        batch, calls = map(int, line.split())
        count = min(calls, 64)
        requests = [(draw.random((batch, 13), np.float32), draw.integers(0, 100_000, (batch, 26))) for _ in range(count)]
        times = []
        for i in range(calls):
            start = time.perf_counter()
            answer(*requests[i % len(requests)])
            times.append(1000.0 * (time.perf_counter() - start))
        print(json.dumps(times), flush=True)


main()
