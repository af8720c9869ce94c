"""A SavedModel answers where there is no Keras: TensorFlow's C library and `saved_model_cli`.

`test_savedmodel` has TensorFlow 2's loader, `test_signatures` that of TensorFlow 1.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_dlrm as kd

tf = pytest.importorskip("tensorflow")

HERE = Path(__file__).parent
SCHEMA = kd.Schema(dense=["a", "b"], categorical=[kd.Categorical("c", 20, hotness=2), kd.Categorical("d", 5)])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = kd.models.DLRM(SCHEMA, 8, [8], [8, 1], seed=2)
    rng = np.random.default_rng(0)
    batch = {
        "dense": rng.normal(size=(6, 2)).astype("float32"),
        "sparse": rng.integers(-1, [20, 20, 5], size=(6, 3)),
    }
    batch["sparse"][0] = [2**40, 20, -7]
    return kd.export.savedmodel(model, tmp_path_factory.mktemp("export")), batch, model.predict(batch, verbose=0)


def test_a_c_program_loads_it_and_gives_the_same_probabilities(exported, tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on the PATH")
    path, batch, expected = exported
    libraries = Path(tf.sysconfig.get_lib())
    subprocess.run(
        [compiler, str(HERE / "serve.c"), "-o", str(tmp_path / "serve"), f"-I{tf.sysconfig.get_include()}",
         str(libraries / "libtensorflow_cc.so.2"), str(libraries / "libtensorflow_framework.so.2"),
         f"-Wl,-rpath,{libraries}"],
        check=True, capture_output=True,
    )  # fmt: skip
    signature = _signature(path)
    names = [signature.inputs["dense"].name, signature.inputs["sparse"].name, signature.outputs["probability"].name]
    dense, sparse, (output, index) = names[0].split(":")[0], names[1].split(":")[0], names[2].split(":")
    numbers = " ".join(map(str, [*batch["dense"].ravel().tolist(), *batch["sparse"].ravel().tolist()]))
    done = subprocess.run(
        [str(tmp_path / "serve"), str(path), dense, sparse, output, index, "6", "2", "3"],
        input=numbers, capture_output=True, text=True, env={"TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(np.array(done.stdout.split(), float), expected.ravel(), atol=1e-6)


def test_saved_model_cli_shows_scans_and_runs_it(exported, tmp_path):
    path, batch, expected = exported
    cli = Path(sys.executable).with_name("saved_model_cli")
    if not cli.exists():
        pytest.skip(f"{cli} does not exist")
    np.savez(tmp_path / "batch.npz", **batch)
    base = ["--dir", str(path), "--tag_set", "serve"]

    def run(*command):
        done = subprocess.run([sys.executable, str(cli), *command], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    shown = run("show", *base, "--signature_def", "serving_default")
    assert "inputs['sparse'] tensor_info:\n      dtype: DT_INT64\n      shape: (-1, 3)" in shown
    assert "does not contain the default denylisted ops" in run("scan", *base)
    file = tmp_path / "batch.npz"
    run("run", *base, "--signature_def", "serving_default", "--outdir", str(tmp_path),
        "--inputs", f"dense={file}[dense];sparse={file}[sparse]")  # fmt: skip
    np.testing.assert_allclose(np.load(tmp_path / "probability.npy"), expected, atol=1e-6)


def test_classify_and_regress_are_named_for_tensorflow_serving(exported):
    path = exported[0]
    methods = {name: _signature(path, name).method_name for name in ("classify", "regress", "serving_default")}
    assert methods == {
        "classify": "tensorflow/serving/classify",
        "regress": "tensorflow/serving/regress",
        "serving_default": "tensorflow/serving/predict",
    }


def test_only_operations_of_stock_tensorflow_are_in_the_graph(exported):
    from tensorflow.python.framework import op_def_registry

    (graph,) = _saved(exported[0]).meta_graphs
    used = {node.op for node in graph.graph_def.node}
    used |= {node.op for f in graph.graph_def.library.function for node in f.node_def}
    functions = {f.signature.name for f in graph.graph_def.library.function}
    assert {op for op in used - functions if op_def_registry.get(op) is None} == set()


def _saved(path):
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())


def _signature(path, name="serving_default"):
    return _saved(path).meta_graphs[0].signature_def[name]
