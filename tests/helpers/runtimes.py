"""Runtimes without Keras that an exported model must answer in. Each gives its answer, or fails with what it complains of."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
ASK = """
import json, sys
for name in ("keras", "tf_keras", "keras_dlrm"):
    sys.modules[name] = None
import numpy as np, tensorflow as tf
served = tf.compat.v1.Session(graph=tf.Graph())
with served.graph.as_default():
    graph = tf.compat.v1.saved_model.load(served, ["serve"], sys.argv[1])
answers = []
for name, inputs in json.load(sys.stdin):
    signature = graph.signature_def[name]
    fed = {signature.inputs[k].name: np.array(v, tf.as_dtype(signature.inputs[k].dtype).as_numpy_dtype) for k, v in inputs.items()}
    out = served.run({k: v.name for k, v in signature.outputs.items()}, fed)
    answers.append({k: np.asarray(v).tolist() for k, v in out.items() if k != "classes"})
print(json.dumps(answers))
"""


def ask(path: Path, requests: list[list[Any]]) -> list[dict[str, Any]]:
    """Answers of the TF1 loader in a process that has neither Keras nor this package.

    Args:
        path: The SavedModel.
        requests: Pairs of a signature's name and its inputs.
    """
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(path)], input=json.dumps(requests), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def c_program(path: Path, batch: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    """Probabilities (B,) of `serving_default` from `serve.c`; the test is skipped where there is no compiler.

    Args:
        path: The SavedModel.
        batch: A packed batch of `dense` and `sparse`.
        folder: Where the program is built.
    """
    import tensorflow as tf

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on the PATH")
    libraries = Path(tf.sysconfig.get_lib())
    subprocess.run(
        [compiler, str(HERE / "serve.c"), "-o", str(folder / "serve"), f"-I{tf.sysconfig.get_include()}",
         str(libraries / "libtensorflow_cc.so.2"), str(libraries / "libtensorflow_framework.so.2"),
         f"-Wl,-rpath,{libraries}"],
        check=True, capture_output=True,
    )  # fmt: skip
    found = signature(path)
    names = [found.inputs["dense"].name, found.inputs["sparse"].name, found.outputs["probability"].name]
    dense, sparse, (output, index) = names[0].split(":")[0], names[1].split(":")[0], names[2].split(":")
    numbers = " ".join(map(str, [*batch["dense"].ravel().tolist(), *batch["sparse"].ravel().tolist()]))
    shape = [*batch["dense"].shape, batch["sparse"].shape[1]]
    done = subprocess.run(
        [str(folder / "serve"), str(path), dense, sparse, output, index, *map(str, shape)],
        input=numbers, capture_output=True, text=True, env={"TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return np.array(done.stdout.split(), float)


def saved_model_cli(*command: str, folder: Path) -> str:
    """What TensorFlow's own command prints; the test is skipped where it is not installed.

    Args:
        command: Its arguments.
        folder: Where it runs.
    """
    cli = Path(sys.executable).with_name("saved_model_cli")
    if not cli.exists():
        pytest.skip(f"{cli} does not exist")
    done = subprocess.run([sys.executable, str(cli), *command], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def cli_run(path: Path, batch: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    """Probabilities (B, 1) of `serving_default` from `saved_model_cli run`."""
    file = folder / "batch.npz"
    np.savez(file, **batch)  # type: ignore[arg-type]
    saved_model_cli(
        "run", "--dir", str(path), "--tag_set", "serve", "--signature_def", "serving_default", "--outdir", str(folder),
        "--overwrite", "--inputs", ";".join(f"{name}={file}[{name}]" for name in batch), folder=folder,
    )  # fmt: skip
    return np.load(folder / "probability.npy")


def saved(path: Path) -> Any:
    """The `SavedModel` message."""
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())


def signature(path: Path, name: str = "serving_default") -> Any:
    """A `SignatureDef`."""
    return saved(path).meta_graphs[0].signature_def[name]
