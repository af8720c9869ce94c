"""ONNX files on the disk: complete or absent, tables alongside, bad arguments refused."""

import os
import sys

import keras
import numpy as np
import onnx as onnx_package
import pytest
from helpers.onnx_files import SCHEMA, assert_equal_to_predict, batch_of

from keras_dlrm.export import onnx
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.models import DCN, DLRM
from keras_dlrm.schema.schema import Schema

pytestmark = pytest.mark.usefixtures("quick_exports")


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
