"""`keras-dlrm export` to ONNX and LiteRT."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from keras_dlrm.cli import main
from keras_dlrm.cli.export import TABLES, command
from keras_dlrm.embeddings.quantized import KINDS
from keras_dlrm.export.onnx_graph.files import new_session
from keras_dlrm.export.requests import expected_probabilities
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.models import DLRM
from keras_dlrm.schema.schema import Categorical, Schema


@pytest.fixture
def model(tmp_path):
    schema = Schema(categorical=[Categorical("a", 3000), Categorical("b", 20)])
    made = DLRM(schema, 16, None, [4, 1], seed=0)
    tables = made.embedding_tables()
    tables["a"][:100] += 1
    made.set_embedding_tables(tables)
    made.save(tmp_path / "m.keras")
    return made


def test_onnx_files_have_the_tables_that_were_asked_for(model, tmp_path):
    args = [str(tmp_path / "m.keras"), "--format", "onnx", "--output", str(tmp_path / "m.onnx"), "--json"]
    whole = CliRunner().invoke(command, args, catch_exceptions=False)
    assert whole.exit_code == 0
    small = CliRunner().invoke(command, [*args, "--tables", "int8", "--prune", "untrained"], catch_exceptions=False)
    found = [json.loads(result.output.splitlines()[-1]) for result in (whole, small)]
    assert found[0]["format"] == "onnx" and found[0]["path"] == str(tmp_path / "m.onnx")
    assert found[1]["bytes"] < 0.12 * found[0]["bytes"]
    batch = {"sparse": np.array([[5, 3], [2000, 4], [-1, 99]])}
    expected = expected_probabilities(model, batch, StoredTables(model, "int8", "untrained"))
    np.testing.assert_allclose(new_session(tmp_path / "m.onnx").run(None, batch)[0], expected, atol=1e-6)


@pytest.mark.neutral
def test_every_kind_of_table_can_be_asked_for():
    assert TABLES == KINDS


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--format", "onnx", "--default", "raw"], "--default is not for --format onnx"),
        (["--format", "litert", "--prune", "untrained"], "--prune is not for --format litert"),
        (["--format", "onnx", "--version", "3"], "--version is not for --format onnx"),
    ],
)
def test_options_of_another_format_are_refused(tmp_path, args, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", "m.keras", "--output", str(tmp_path / "x"), *args])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["m.keras"], "give --output"),
        (["m.keras", "--delta-of", "served/1", "--output", "x"], "--delta-of goes without --output"),
        (["m.keras", "--delta-of", "served/1", "--tables", "int8"], "--tables is not for --delta-of"),
        (["served/2.delta", "--output", "x"], "a delta goes without --output"),
        (["served/2.delta", "--version", "3"], "--version is not for a delta"),
        (["served/2.delta", "--delta-of", "served/1"], "--delta-of with a saved MODEL"),
        (["served/2.delta"], "served/2.delta/delta.json does not exist; give a delta that kd.export.delta wrote"),
    ],
)
def test_deltas_take_no_options_of_a_version(args, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", *args])
    assert stop.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_delta_of_another_model_is_refused(model, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "m.keras"), "--delta-of", str(tmp_path / "1")])
    assert stop.value.code == 2
    assert "manifest.json does not exist; give a version" in capsys.readouterr().err


def test_a_model_of_nan_is_refused_with_its_table_named(model, tmp_path, capsys):
    model.embeddings._write({"b": np.full((20, 16), np.nan, np.float32)})
    model.save(tmp_path / "m.keras")
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "m.keras"), "--format", "onnx", "--output", str(tmp_path / "x.onnx")])
    assert stop.value.code == 2
    assert "error: onnx: table 'b' has nan in row 0, place 0" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()
