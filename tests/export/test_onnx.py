"""ONNX files: equal to `predict` in ONNX Runtime, for every schema and model, and complete or absent."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import onnx as onnx_package
import pytest
from helpers.suite import suite_on
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.export import onnx
from keras_dlrm.export.functional import output_names
from keras_dlrm.export.onnx_graph.files import new_session
from keras_dlrm.export.requests import expected_probabilities
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.models import DCN, DLRM, DCNv2, DeepFM
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.usefixtures("quick_exports")

SCHEMA = Schema(
    dense=["I1", "I2"], categorical=[Categorical("C1", 7, oov=3), Categorical("tags", 5, hotness=2, combiner="mean", oov=None)]
)
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


def batch_of(schema, rows, seed=0):
    """Ids of all kinds: in the vocabulary, padding, far beyond it; weights of padding that are not finite."""
    rng = np.random.default_rng(seed)
    batch = {}
    if schema.dense:
        batch["dense"] = rng.normal(size=(rows, schema.n_dense)).astype("float32")
    sizes = np.repeat([c.vocabulary_size for c in schema.categorical], [c.hotness for c in schema.categorical])
    ids = rng.integers(-1, sizes, size=(rows, schema.width))
    strange = rng.choice([-2, -(2**40), 2**31 - 1, 2**31, 2**32 + 1, 2**40], size=ids.shape)
    batch["sparse"] = np.where(rng.random(ids.shape) < 0.15, strange, ids)
    if schema.weighted:
        weights = rng.uniform(-1, 2, size=ids.shape).astype("float32")
        batch["weights"] = np.where(batch["sparse"] == -1, np.float32("nan"), weights)
    return batch


def run(path, batch):
    return new_session(path).run(None, batch)[0]


def assert_equal_to_predict(model, path, batch, atol=1e-5, stored=None):
    expected = expected_probabilities(model, batch, stored)
    np.testing.assert_allclose(run(path, batch), expected, rtol=0, atol=atol)


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


# -- models of one's own ---------------------------------------------------------------------------------------------


class Own(ClickModel):
    """Written with what keras.ops and Keras's layers have."""

    def __init__(self, schema, **kwargs):
        super().__init__(schema, **kwargs)
        self.embeddings = kd.layers.EmbeddingCollection(schema, 6)
        self.norm = keras.layers.LayerNormalization()
        self.gate = keras.layers.Dense(3, activation="sigmoid")
        self.out = keras.layers.Dense(1)
        self.bent = keras.layers.LeakyReLU()
        self.embeddings.build((None, schema.width))
        self.norm.build((None, 2, 6))
        self.gate.build((None, 2, 6))
        self.out.build((None, 14))
        self.built = True

    def logits(self, inputs, training=None):
        x = self.norm(self.embeddings(inputs))
        gated = self.gate(x)[:, :, 1:] * keras.ops.sum(x, axis=-1, keepdims=True)
        first, second = keras.ops.split(x, 2, axis=1)
        pairs = keras.ops.concatenate([keras.ops.squeeze(first * second, 1), inputs["dense"]], axis=1)
        flat = keras.ops.reshape(gated, (-1, 4))
        top = keras.ops.max(x, axis=1)[:, ::3]
        return self.out(self.bent(keras.ops.concatenate([pairs, flat, keras.ops.square(top)], axis=-1)))


@keras.saving.register_keras_serializable("tests")
class Running(keras.layers.Layer):
    """With an operation that has no converter here."""

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="random_normal")

    def call(self, x, training=None):
        return keras.ops.cumsum(x * self.factor, axis=1)

    def compute_output_shape(self, input_shape):
        return input_shape


class WithRunning(Own):
    def __init__(self, schema, **kwargs):
        super().__init__(schema, **kwargs)
        self.out = keras.Sequential([Running(), keras.layers.Dense(1)])
        self.out.build((None, 14))


class Unknown(Own):
    def logits(self, inputs, training=None):
        return keras.ops.cumsum(super().logits(inputs, training), axis=1)


def test_models_of_one_s_own_export_too(tmp_path):
    model = Own(SCHEMA, seed=0)
    path = onnx(model, tmp_path / "m.onnx")
    for rows in (0, 1, 6):
        batch = batch_of(SCHEMA, rows)
        assert_equal_to_predict(model, path, batch)


def test_layers_that_are_not_known_go_through_tf2onnx(tmp_path, monkeypatch):
    model = WithRunning(SCHEMA, seed=0)
    path = onnx(model, tmp_path / "m.onnx")
    assert_equal_to_predict(model, path, batch_of(SCHEMA, 6))
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(NotImplementedError, match="Cumsum, in layer .* a Running, which needs the package tf2onnx"):
        onnx(model, tmp_path / "m.onnx")


def test_an_activation_that_leaves_keras_ops_goes_through_tf2onnx_with_its_mlp(tmp_path):
    model = DCN(Schema(dense=["x", "y", "z"]), cross_layers=1, deep_mlp=[8, 8], activation="mish", seed=0)
    assert onnx(model, tmp_path / "m.onnx").exists()  # compares with predict


def test_what_is_not_known_is_named(tmp_path):
    with pytest.raises(NotImplementedError, match="uses the Keras operation Cumsum, which is not known.*kd.export.savedmodel"):
        onnx(Unknown(SCHEMA, seed=0), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


# -- files -----------------------------------------------------------------------------------------------------------


def test_large_tables_lie_beside_and_are_replaced_with_the_file(tmp_path, monkeypatch):
    import keras_dlrm.export.onnx_graph.export  # noqa: F401

    monkeypatch.setattr(sys.modules["keras_dlrm.export.onnx_graph.export"], "EXTERNAL_ABOVE", 100)
    model = DLRM(SCHEMA, 4, [4], [3, 1], seed=0)
    path = onnx(model, tmp_path / "m.onnx")
    (first,) = tmp_path.glob("m.onnx.*.data")
    assert onnx(model, path).exists() and list(tmp_path.glob("*.data")) == [first]  # the same tables: the same name
    model.set_embedding_tables({"C1": np.ones((7, 4))})
    (tmp_path / "m.onnx.notes.data").write_text("not ours")
    onnx(model, path)
    assert len(list(tmp_path.iterdir())) == 3 and not first.exists()
    assert_equal_to_predict(model, path, batch_of(SCHEMA, 5))
    onnx(model, path, external_data=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.notes.data"]


def test_arrays_of_the_tables_file_begin_at_pages(tmp_path):
    path = onnx(DLRM(SCHEMA, 16, [4, 16], [3, 1]), tmp_path / "m.onnx", tables="int8", external_data=True)
    loaded = onnx_package.load(path, load_external_data=False)
    places = [{e.key: e.value for e in t.external_data} for t in loaded.graph.initializer if t.name.startswith("tables_")]
    assert [int(p["offset"]) for p in places] == [0, 65536]
    assert {p["location"] for p in places} == {next(tmp_path.glob("*.data")).name}


def test_a_model_without_tables_is_one_file(tmp_path):
    model = DCN(Schema(dense=["x", "y"]), cross_layers=1, deep_mlp=[4], seed=0)
    path = onnx(model, tmp_path / "m.onnx", tables="int8", prune="untrained", external_data=True)
    assert list(tmp_path.iterdir()) == [path]


def test_tables_that_one_file_cannot_hold_are_refused_without_external_data(tmp_path, monkeypatch):
    monkeypatch.setattr(StoredTables, "nbytes", 1 << 31)
    with pytest.raises(ValueError, match=r"tables have 2,147,483,648 bytes.*at most 2 GiB; leave external_data=False out"):
        onnx(DLRM(SCHEMA, 4, [4], [3, 1]), tmp_path / "m.onnx", external_data=False)


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    import keras_dlrm.export.onnx_graph.export  # noqa: F401

    model = DLRM(SCHEMA, 4, [4], [3, 1], seed=0)
    path = onnx(model, tmp_path / "m.onnx", external_data=True)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = DLRM(SCHEMA, 4, [4], [3, 1], seed=1)
    monkeypatch.setattr(
        sys.modules["keras_dlrm.export.onnx_graph.export"], "expected_probabilities", lambda m, b, s: model.predict(b, verbose=0)
    )
    with pytest.raises(RuntimeError, match="16 rows the written model differs from the live one by .*at most 1e-05"):
        onnx(other, path, external_data=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        onnx(DLRM(SCHEMA, 4, [4], [3, 1]), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tables": "int2"}, ValueError, "tables='int2' is unknown; use one of"),
        ({"prune": "unused"}, ValueError, "prune='unused' is unknown"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        onnx(DLRM(SCHEMA, 4, [4], [3, 1]), tmp_path / "new" / "m.onnx", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_folder_and_other_models_are_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; give a file, such as .*model.onnx"):
        onnx(DLRM(SCHEMA, 4, [4], [3, 1]), tmp_path)
    with pytest.raises(TypeError, match="expected a model of kd.models, .*not Sequential"):
        onnx(keras.Sequential([keras.layers.Dense(1)]), tmp_path / "m.onnx")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"package onnxruntime.*pip install 'keras-dlrm\[onnx\]'"):
        onnx(DLRM(SCHEMA, 4, [4], [3, 1]), tmp_path / "m.onnx")


def test_a_functional_model_gives_its_own_outputs_by_name(tmp_path):
    schema = Schema(categorical=[Categorical("C1", 7, oov=3), Categorical("tags", 5, hotness=2, combiner="mean", oov=None)])
    ids, age = keras.Input((3,), dtype="int32", name="ids"), keras.Input((2,), name="age of")
    pooled = kd.layers.EmbeddingCollection(schema, 4, concatenate=True, seed=1)(ids)
    x = keras.layers.Dense(8, "relu", name="hidden")(keras.layers.Concatenate()([pooled, age]))
    click, time = keras.layers.Dense(1, "sigmoid", name="click")(x), keras.layers.Dense(2, name="time")(x)
    batch = {"age_of": np.ones((3, 2), "float32"), "ids": np.array([[6, 1, -1], [99, 2**40, 4], [-1, -1, -1]])}
    assert output_names(kd.models.SparseModel([ids, age], [click, time])) == ["click", "time"]
    model = kd.models.SparseModel([ids, age], {"like": click, "dwell": time})
    session = new_session(onnx(model, tmp_path / "own.onnx"))
    assert [output.name for output in session.get_outputs()] == ["dwell", "like"]
    expected = model.predict([batch["ids"], batch["age_of"]], verbose=0)
    for name, got in zip(["dwell", "like"], session.run(None, batch), strict=True):
        np.testing.assert_allclose(got, expected[name], atol=1e-6)
    onnx(model, tmp_path / "own.onnx", tables="int8")
    twice = kd.layers.EmbeddingCollection(schema, 4, concatenate=True)(ids)
    model = kd.models.SparseModel(ids, keras.layers.Add()([pooled, twice]))
    with pytest.raises(NotImplementedError, match="has 2 EmbeddingCollections.*kd.export.savedmodel"):
        onnx(model, tmp_path / "own.onnx")
    with pytest.raises(TypeError, match="litert.*has a schema.*kd.export.savedmodel"):
        kd.export.litert(model, tmp_path / "own.tflite")
    with pytest.raises(ValueError, match="user_columns=.* is for the models of kd.models that have a schema"):
        kd.export.savedmodel(model, tmp_path / "own", user_columns=["C1"])
    with pytest.raises(ValueError, match="outputs of the model are called .* a name of its own"):
        kd.export.savedmodel(kd.models.SparseModel([ids, age], [click, click]), tmp_path / "own")
