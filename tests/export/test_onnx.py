"""ONNX files: names, types and nodes, and equal to `predict` in ONNX Runtime, for every schema and model."""

import json
import subprocess
import sys

import keras
import numpy as np
import onnx as onnx_package
import pytest
from helpers.onnx_files import SCHEMA, assert_equal_to_predict, batch_of, run
from helpers.suite import suite_on
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dlrm.export import onnx
from keras_dlrm.export.onnx_graph.files import new_session
from keras_dlrm.export.requests import expected_probabilities
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.models import DCN, DLRM, DCNv2, DeepFM
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.usefixtures("quick_exports")

RUNNER = """
import sys
sys.modules["keras"] = sys.modules["keras_dlrm"] = sys.modules["tensorflow"] = None
import json, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
batch = {"dense": np.array([[0.5, 1.0]], np.float32), "sparse": np.array([[6, 1, -1]], np.int64)}
print(json.dumps({
    "inputs": {i.name: [i.type, i.shape] for i in session.get_inputs()},
    "outputs": {o.name: [o.type, o.shape] for o in session.get_outputs()},
    "probability": session.run(None, batch)[0].tolist(),
}))
"""


# -- what the file is ------------------------------------------------------------------------------------------------


def test_names_and_types_are_exact_and_onnx_runtime_alone_runs_it(tmp_path):
    model = DLRM(SCHEMA, 4, [4], [3, 1], dropout=0.2, batch_norm=True, seed=0)
    path = onnx(model, str(tmp_path / "new" / "model.onnx"))
    assert path == tmp_path / "new" / "model.onnx"
    done = subprocess.run([sys.executable, "-c", RUNNER, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["inputs"] == {"dense": ["tensor(float)", ["B", 2]], "sparse": ["tensor(int64)", ["B", 3]]}
    assert found["outputs"] == {"probability": ["tensor(float)", ["B", 1]]}
    batch = {"dense": np.array([[0.5, 1.0]], np.float32), "sparse": np.array([[6, 1, -1]])}
    np.testing.assert_allclose(found["probability"], model.predict(batch, verbose=0), atol=1e-6)


def test_the_file_is_standard_onnx_and_knows_its_schema(tmp_path):
    loaded = onnx_package.load(onnx(DLRM(SCHEMA, 4, [4], [3, 1]), tmp_path / "m.onnx"))
    onnx_package.checker.check_model(loaded, full_check=True)
    assert {node.domain for node in loaded.graph.node} == {""}
    about = {p.key: p.value for p in loaded.metadata_props}
    assert Schema.from_dict(json.loads(about["keras_dlrm.schema"])) == SCHEMA
    tables = json.loads(about["keras_dlrm.tables"])
    assert [(t["table"], t["rows"], t["first_place"]) for t in tables] == [("C1", 7, 2), ("tags", 5, 12)]


def test_columns_of_equal_width_take_one_gather_and_the_graph_is_small(tmp_path):
    schema = Schema(dense=["x"], categorical=[Categorical(f"C{i}", 50) for i in range(26)])
    loaded = onnx_package.load(onnx(DLRM(schema, 4, [8, 4], [8, 1]), tmp_path / "m.onnx"))
    kinds = [node.op_type for node in loaded.graph.node]
    tables = [node for node in loaded.graph.node if node.input[0].startswith("tables_")]
    assert len(tables) == 1
    assert len(kinds) == 22, kinds


def test_every_number_of_rows_runs(tmp_path):
    model = DLRM(SCHEMA, 4, [4], [3, 1], seed=0)
    path = onnx(model, tmp_path / "m.onnx")
    for rows in (0, 1, 2, 77):
        batch = batch_of(SCHEMA, rows)
        assert run(path, batch).shape == (rows, 1)
        assert_equal_to_predict(model, path, batch)


def test_weights_of_other_rows_than_the_ids_are_refused(tmp_path):
    schema = Schema(["x"], [Categorical("a", 5, hotness=2), Categorical("b", 4)], weighted=True)
    session = new_session(onnx(DLRM(schema, 4, [4], [1], seed=0), tmp_path / "model.onnx"))
    batch = batch_of(schema, 3)
    assert session.run(None, batch)[0].shape == (3, 1)
    for key in ("sparse", "weights"):
        with pytest.raises(Exception, match="Reshape|re-use buffer"):
            session.run(None, {**batch, key: batch[key][:1]})


def test_a_dense_feature_of_nan_gives_no_probability(tmp_path):
    path = onnx(DLRM(SCHEMA, 4, [4], [3, 1], seed=0), tmp_path / "m.onnx")
    batch = batch_of(SCHEMA, 3)
    batch["dense"][1, 1] = np.nan
    assert np.isnan(run(path, batch)[:, 0]).tolist() == [False, True, False]


# -- parity ----------------------------------------------------------------------------------------------------------


@st.composite
def schemas(draw):
    columns = []
    for i in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 30))
        shared = columns and draw(st.integers(0, 3)) == 0
        base = columns[-1] if shared else None
        hashed = base.hashed if base else draw(st.integers(0, 3)) == 0
        columns.append(
            Categorical(
                f"c{i}",
                base.vocabulary_size if base else size,
                hotness=draw(st.sampled_from([1, 1, 3])),
                combiner=draw(st.sampled_from(["sum", "mean", "sqrtn"])),
                oov=base.oov if base else draw(st.sampled_from([None, 0, size - 1])),
                hashed=hashed,
                table=base.table_name if base else None,
            )
        )
    dense = [f"d{i}" for i in range(draw(st.integers(0, 3)))]
    return Schema(dense, columns, weighted=draw(st.booleans()))


@st.composite
def models(draw, schema):
    options = {}
    if draw(st.integers(0, 2)) == 0:
        operation = draw(st.sampled_from(["mult", "add", "concat"]))
        options["quotient_remainder"] = {"collisions": 3, "threshold": 8, "operation": operation}
    if draw(st.integers(0, 3)) == 0:
        options["table_dtype"] = "bfloat16"
    dim = 4
    if draw(st.booleans()):
        dim = {name: draw(st.sampled_from([2, 4, 6])) for name in schema.table_sizes}
    common = {"activation": draw(st.sampled_from(["relu", "tanh", "gelu", "silu"])), "batch_norm": draw(st.booleans())}
    common |= {"embedding_dim": dim, "embedding_options": options, "seed": 1}
    kind = draw(st.sampled_from(["dot", "dot", "cat", "cat_dot", "cross", "dcn", "dcnv2", "parallel", "deep_fm"]))
    if kind == "deep_fm":
        return DeepFM(schema, deep_mlp=[5], **{**common, "embedding_dim": 3})  # with the first-order weight: 4
    if isinstance(dim, int) and not options.get("quotient_remainder"):
        common["first_order"] = draw(st.booleans())
    if kind == "dcn":
        return DCN(schema, cross_layers=2, deep_mlp=[5], **common)
    if kind in ("dcnv2", "parallel"):
        structure = "parallel" if kind == "parallel" else "stacked"
        rank = draw(st.sampled_from([None, 2]))
        return DCNv2(schema, cross_layers=2, deep_mlp=[5], structure=structure, projection_dim=rank, **common)
    top = {"top_mlp": [6, 1], "interaction": kind}
    if schema.dense:
        top["bottom_mlp"] = [5, 4 if isinstance(dim, int) else max(dim.values())]
    if kind == "cross":
        top |= {"cross_layers": 2, "projection_dim": 3}
    if kind in ("dot", "cat_dot"):
        top["self_interaction"] = len(schema.categorical) + bool(schema.dense) < 2 or draw(st.booleans())
    return DLRM(schema, **top, **common)


@suite_on("torch")
@settings(max_examples=6)
@given(data=st.data())
def test_any_model_of_any_schema_equals_predict(data, tmp_path_factory):
    schema = data.draw(schemas())
    model = data.draw(models(schema))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            rng = np.random.default_rng(2)
            layer.set_weights([np.abs(w + rng.normal(size=w.shape)) + 0.1 for w in layer.get_weights()])
    kind = data.draw(st.sampled_from([None, None, "float32", "float16", "bfloat16", "int8", "int4"]))
    prune = data.draw(st.booleans())
    masks = None
    if prune:
        tables = {t.name: t.rows for s in model.embeddings.stacks for t in s.tables}
        masks = {n: np.arange(tables[n]) % 3 > 0 for n in schema.table_sizes if n in tables}
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    onnx(model, path, tables=kind, prune=masks, external_data=data.draw(st.booleans()))
    stored = StoredTables(model, kind, masks) if kind or masks else None
    batch = batch_of(schema, 16)
    expected = expected_probabilities(model, batch, stored)
    for rows in (16, 1):
        got = run(path, {name: array[:rows] for name, array in batch.items()})
        np.testing.assert_allclose(got, expected[:rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu", "elu", "selu", "silu", "gelu", "softplus", "softsign",
                                        "hard_sigmoid", "log_sigmoid", "tanh", "sigmoid", "softmax",
                                        "exponential", "celu", "tanh_shrink", "hard_tanh", "squareplus"])  # fmt: skip
def test_activations_of_keras_equal_predict(tmp_path, activation):
    model = DCN(Schema(dense=["x", "y", "z"]), cross_layers=1, deep_mlp=[8, 8], activation=activation, seed=0)
    assert onnx(model, tmp_path / "m.onnx").exists()  # compares with predict


def test_a_mixed_precision_model_exports(tmp_path):
    model = DLRM(SCHEMA, 16, [64, 16], [64, 32, 1], seed=5, dtype="mixed_bfloat16", batch_norm=True)
    assert onnx(model, tmp_path / "m.onnx").exists()


def test_frozen_tables_and_several_widths_export(tmp_path):
    model = DCNv2(SCHEMA, {"C1": 3, "tags": 8}, 1, [4], seed=0)
    model.embeddings.trainable = False
    path = onnx(model, tmp_path / "m.onnx")
    assert_equal_to_predict(model, path, batch_of(SCHEMA, 5))


@pytest.mark.slow
def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = DLRM(SCHEMA, 4, [4], [3, 1], batch_norm=True, seed=0)
    model.compile("adagrad")
    batch, label = batch_of(SCHEMA, 64), np.arange(64) % 2
    model.fit(batch, label, verbose=0)
    weights = model.get_weights()
    onnx(model, tmp_path / "m.onnx", tables="int8")
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert all(not layer._inbound_nodes and not layer._outbound_nodes for layer in model._flatten_layers())
    model.fit(batch, label, verbose=0)
    model.save(tmp_path / "m.keras")
    assert_equal_to_predict(model, onnx(model, tmp_path / "m.onnx"), batch)
