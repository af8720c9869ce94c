"""Runtimes without Keras that an exported model must answer in. Each gives its answer, or fails with what it complains of."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
ASK = """
import json, sys
for name in ("keras", "tf_keras", "keras_dlrm"):
    sys.modules[name] = None
import traceback
import numpy as np, tensorflow as tf
def answers(path, requests):
    with tf.compat.v1.Session(graph=tf.Graph()) as served:
        graph = tf.compat.v1.saved_model.load(served, ["serve"], path)
        for name, inputs in requests:
            signature = graph.signature_def[name]
            types = {k: tf.as_dtype(each.dtype).as_numpy_dtype for k, each in signature.inputs.items()}
            fed = {signature.inputs[k].name: np.array(v, types[k]) for k, v in inputs.items()}
            out = served.run({k: v.name for k, v in signature.outputs.items()}, fed)
            yield {k: np.asarray(v).tolist() for k, v in out.items() if k != "classes"}
for line in sys.stdin:
    try:
        said = list(answers(*json.loads(line)))
    except Exception:
        said = traceback.format_exc()
    print(json.dumps(said), flush=True)
"""


@functools.cache
def _loader() -> subprocess.Popen[str]:
    """A process for all questions: TensorFlow starts once."""
    command = [sys.executable, "-c", ASK]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    atexit.register(process.communicate)
    return process


def ask(path: Path, requests: list[list[Any]]) -> list[dict[str, Any]]:
    """Answers of the TF1 loader in a process that has neither Keras nor this package.

    Args:
        path: The SavedModel.
        requests: Pairs of a signature's name and its inputs.
    """
    process = _loader()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps([str(path), requests]) + "\n")
    process.stdin.flush()
    said = json.loads(process.stdout.readline())
    assert not isinstance(said, str), said
    return said


@functools.cache
def _built() -> Path:
    """The program of `serve.c`: linking it takes longer than running it."""
    import tensorflow as tf

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on the PATH")
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    libraries = Path(tf.sysconfig.get_lib())
    subprocess.run(
        [compiler, str(HERE / "serve.c"), "-o", str(folder / "serve"), f"-I{tf.sysconfig.get_include()}",
         str(libraries / "libtensorflow_cc.so.2"), str(libraries / "libtensorflow_framework.so.2"),
         f"-Wl,-rpath,{libraries}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "serve"


def c_program(path: Path, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities (B,) of `serving_default` from `serve.c`; the test is skipped where there is no compiler.

    Args:
        path: The SavedModel.
        batch: A packed batch of `dense` and `sparse`.
    """
    found = signature(path)
    names = [found.inputs["dense"].name, found.inputs["sparse"].name, found.outputs["probability"].name]
    dense, sparse, (output, index) = names[0].split(":")[0], names[1].split(":")[0], names[2].split(":")
    numbers = " ".join(map(str, [*batch["dense"].ravel().tolist(), *batch["sparse"].ravel().tolist()]))
    shape = [*batch["dense"].shape, batch["sparse"].shape[1]]
    done = subprocess.run(
        [str(_built()), str(path), dense, sparse, output, index, *map(str, shape)],
        input=numbers, capture_output=True, text=True, env={"TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return np.array(done.stdout.split(), float)


def saved_model_cli(*command: str, programs: Path, folder: Path) -> str:
    """Output of TensorFlow's own command; the test is skipped where it is not installed.

    Args:
        command: Its arguments.
        programs: Folder of the `python` that runs it.
        folder: Where it runs.
    """
    cli = Path(sys.executable).with_name("saved_model_cli")
    if not cli.exists():
        pytest.skip(f"{cli} does not exist")
    done = subprocess.run([programs / "python", cli, *command], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def cli_run(path: Path, batch: dict[str, np.ndarray], programs: Path, folder: Path) -> np.ndarray:
    """Probabilities (B, 1) of `serving_default` from `saved_model_cli run`."""
    file = folder / "batch.npz"
    np.savez(file, **batch)  # type: ignore[arg-type]
    saved_model_cli(
        "run", "--dir", str(path), "--tag_set", "serve", "--signature_def", "serving_default", "--outdir", str(folder),
        "--overwrite", "--inputs", ";".join(f"{name}={file}[{name}]" for name in batch),
        programs=programs, folder=folder,
    )  # fmt: skip
    return np.load(folder / "probability.npy")


def saved(path: Path) -> Any:
    """The `SavedModel` message."""
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())


def signature(path: Path, name: str = "serving_default") -> Any:
    """A `SignatureDef`."""
    return saved(path).meta_graphs[0].signature_def[name]
