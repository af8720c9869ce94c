"""A SavedModel answers where there is no Keras: TensorFlow's C library and `saved_model_cli`.

`test_savedmodel` has TensorFlow 2's loader, `test_signatures` that of TensorFlow 1.
"""

import numpy as np
import pytest
from helpers.runtimes import c_program, cli_run, saved, saved_model_cli, signature

import keras_dlrm as kd

pytestmark = [pytest.mark.neutral, pytest.mark.usefixtures("quick_exports")]

pytest.importorskip("tensorflow")

SCHEMA = kd.Schema(dense=["a", "b"], categorical=[kd.Categorical("c", 20, hotness=2), kd.Categorical("d", 5)])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = kd.models.DLRM(SCHEMA, 8, [8], [8, 1], seed=2)
    rng = np.random.default_rng(0)
    batch = {"dense": rng.normal(size=(6, 2)).astype("float32"), "sparse": rng.integers(-1, [20, 20, 5], size=(6, 3))}
    batch["sparse"][0] = [2**40, 20, -7]
    return kd.export.savedmodel(model, tmp_path_factory.mktemp("export")), batch, model.predict(batch, verbose=0)


@pytest.mark.slow
def test_a_c_program_loads_it_and_gives_the_same_probabilities(exported):
    path, batch, expected = exported
    np.testing.assert_allclose(c_program(path, batch), expected.ravel(), atol=1e-6)


@pytest.mark.slow
def test_saved_model_cli_shows_scans_and_runs_it(exported, tensorflow_programs, tmp_path):
    path, batch, expected = exported
    base = ["--dir", str(path), "--tag_set", "serve"]
    where = {"programs": tensorflow_programs, "folder": tmp_path}
    shown = saved_model_cli("show", *base, "--signature_def", "serving_default", **where)
    assert "inputs['sparse'] tensor_info:\n      dtype: DT_INT64\n      shape: (-1, 3)" in shown
    assert "does not contain the default denylisted ops" in saved_model_cli("scan", *base, **where)
    np.testing.assert_allclose(cli_run(path, batch, **where), expected, atol=1e-6)


@pytest.mark.slow
def test_classify_and_regress_are_named_for_tensorflow_serving(exported):
    path = exported[0]
    methods = {name: signature(path, name).method_name for name in ("classify", "regress", "serving_default")}
    assert methods == {
        "classify": "tensorflow/serving/classify",
        "regress": "tensorflow/serving/regress",
        "serving_default": "tensorflow/serving/predict",
    }


def test_only_operations_of_stock_tensorflow_are_in_the_graph(exported):
    from tensorflow.python.framework import op_def_registry

    (graph,) = saved(exported[0]).meta_graphs
    used = {node.op for node in graph.graph_def.node}
    used |= {node.op for f in graph.graph_def.library.function for node in f.node_def}
    functions = {f.signature.name for f in graph.graph_def.library.function}
    assert {op for op in used - functions if op_def_registry.get(op) is None} == set()
