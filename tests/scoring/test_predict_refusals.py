"""Bad rows, wrong arguments, other models' data and broken runs: refused by name, and no output is left."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers.scored import NEW, expected
from helpers.table_logs import FORMATS, save, spoil

import keras_dlrm as kd
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.scoring import predict_files

pytestmark = pytest.mark.usefixtures("quick_exports")


@pytest.mark.neutral
def test_a_missing_id_column_and_a_file_that_is_no_parquet_are_named(tmp_path: Path, log: Any, model: Any) -> None:
    path = save(NEW, tmp_path / "rows.parquet")
    options: dict[str, Any] = {"output": tmp_path / "p.csv", "preprocessor": log.preprocessor}
    with pytest.raises(KeyError, match="rows.parquet: column 'key' is missing; it has"):
        predict_files(model, path, id_columns=["key"], **options)
    for content in (b"", b"PAR1 and no more of it"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="rows.parquet cannot be read as a table"):
            predict_files(model, path, id_columns=["unused"], **options)
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.neutral
def test_a_preprocessor_with_another_row_for_unseen_values_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1, 2], "b": [0, 1]}).write_parquet(tmp_path / "rows.parquet")
    theirs, ours = (Schema(categorical=[Categorical("a", 5, oov=oov), Categorical("b", 3)]) for oov in (0, 4))
    model = kd.models.DLRM(ours, embedding_dim=4, top_mlp=[1], seed=0)
    with pytest.raises(ValueError, match="column 'a' has oov=4 in the model, 0 in the data"):
        predict_files(
            model, tmp_path / "rows.parquet", output=tmp_path / "p.csv", preprocessor=kd.data.Preprocessor.identity(theirs)
        )


@pytest.mark.neutral
@pytest.mark.parametrize("ending", FORMATS)
def test_bad_rows_stop_the_run_or_are_left_out_and_counted(tmp_path: Path, log: Any, model: Any, ending: str) -> None:
    dirty = save(spoil(NEW), tmp_path / f"dirty.{ending}")
    options: dict[str, Any] = {"output": tmp_path / "p.parquet", "preprocessor": log.preprocessor, "id_columns": ["unused"]}
    # The first bad row is bad by its label, which is not read.
    line = "line 39" if "sv" in ending else "row 37"
    with pytest.raises(ValueError, match=rf"dirty.{ending}, {line}, column given: value '?51"):
        predict_files(model, dirty, **options)
    assert [p.name for p in tmp_path.iterdir()] == [dirty.name]
    with pytest.raises(ValueError, match="more than max_skipped=2"):
        predict_files(model, dirty, **options, on_error="skip", max_skipped=2)
    assert [p.name for p in tmp_path.iterdir()] == [dirty.name]
    done = predict_files(model, dirty, **options, on_error="skip")
    usable = [row for row in spoil(NEW) if row["given"] not in (50, 51, -2)]
    usable = [row for row in usable if len(row["tags"]) < 4]
    assert done.rows == len(usable) and done.skipped == len(spoil(NEW)) - len(usable) == len(done.examples)
    written = pl.read_parquet(tmp_path / "p.parquet")
    assert written["unused"].cast(pl.Int64).to_list() == [row["unused"] for row in usable]
    np.testing.assert_allclose(written["probability"], expected(log, model, usable), rtol=1e-5, atol=1e-7)


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"id_columns": "unused"}, TypeError, "id_columns='unused' is a string"),
        ({"id_columns": ["unused", "unused"]}, ValueError, "two columns 'unused'"),
        ({"id_columns": ["unused"], "column": "unused"}, ValueError, "two columns 'unused'"),
        ({"id_columns": ["key"]}, KeyError, "rows.csv: column 'key' is missing; it has"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"workers": 0}, ValueError, "workers=0"),
        ({"on_error": "ignore"}, ValueError, "on_error='ignore'"),
        ({"output": "p.txt"}, ValueError, "the ending says no format"),
        ({"output": "rows.csv", "overwrite": True}, ValueError, "rows.csv is an input, too"),
        ({"output": "rows.csv"}, FileExistsError, "rows.csv exists"),
        ({"inputs": "*.json"}, FileNotFoundError, "no file has such a name"),
        ({"inputs": "log.txt"}, ValueError, "log.txt: the ending says no format"),
        ({"inputs": ["rows.csv", "rows.parquet"], "id_columns": ["unused"]}, ValueError, "'unused' is Int64, in .*csv it is Str"),
        ({"preprocessor": "nowhere"}, FileNotFoundError, "nowhere"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(
    tmp_path: Path, log: Any, model: Any, monkeypatch: pytest.MonkeyPatch, options: dict, error: type, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save(NEW[:5], Path("rows.csv"))
    save(NEW[:5], Path("rows.parquet"))
    Path("log.txt").write_text("x")
    before = sorted(p.name for p in tmp_path.iterdir())
    named = {"inputs": "rows.csv", "output": "p.csv", "preprocessor": log.preprocessor, **options}
    with pytest.raises(error, match=words):
        predict_files(model, named.pop("inputs"), **named)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.neutral
def test_another_models_preprocessor_is_an_error(tmp_path: Path, log: Any, model: Any) -> None:
    path = save(NEW[:5], tmp_path / "rows.csv")
    fewer = Schema(log.schema.dense, log.schema.categorical[:-1])
    larger = log.schema.replace_categorical(given={"vocabulary_size": 51})
    unlike = log.schema.replace_categorical(city={"identity": "of other values"})
    for schema, words in (
        (fewer, "the data has a column '.*', which the model does not take"),
        (unlike, "column 'city' has another vocabulary in the data"),
        (larger, "'given' has vocabulary_size=51 in the model, 50 in the data.*kd.models.grow"),
        (Schema(log.schema.dense, log.schema.categorical, weighted=True), "weighted=True in the model"),
    ):
        other = kd.models.DLRM(schema, 4, [4], [4, 1])
        with pytest.raises(ValueError, match=words):
            predict_files(other, path, output=tmp_path / "p.csv", preprocessor=log.preprocessor)
    with pytest.raises(TypeError, match="a model of kd.models"):
        predict_files(object(), path, output=tmp_path / "p.csv", preprocessor=log.preprocessor)
    weighted = Schema(categorical=[Categorical("a", 10), Categorical("b", 5)], weighted=True)
    with pytest.raises(ValueError, match="weighted=True schema names no column"):
        predict_files(kd.models.DLRM(weighted, 4, top_mlp=[1]), path, output=tmp_path / "p.csv", preprocessor=None)


def test_a_model_refuses_the_splits_of_a_log_with_other_vocabularies(log: Any) -> None:
    other = kd.models.DLRM(log.schema.replace_categorical(city={"identity": "of other values"}), 4, [4], [4, 1])
    other.compile("adagrad")
    part = log.split("train")
    dataset = part.dataset(64)
    calls = {
        "fit": lambda: other.fit(dataset, verbose=0),
        "fit: validation_data": lambda: other.fit(*part.arrays(), validation_data=dataset, verbose=0),
        "evaluate": lambda: other.evaluate(dataset, verbose=0),
        "predict": lambda: other.predict(dataset, verbose=0),
        "compare_tables": lambda: kd.export.compare_tables(other, part, ["int8"]),
        "savedmodel": lambda: kd.export.savedmodel(other, "nowhere", log.preprocessor),
    }
    for who, call in calls.items():
        with pytest.raises(ValueError, match=f"^{who}: column 'city' has another vocabulary in the data"):
            call()
    grown = log.preprocessor.grow(pl.DataFrame({c.name: ["new"] for c in log.schema.categorical if c.name != "given"}))
    assert kd.models.grow(kd.models.DLRM(log.schema, 4, [4], [4, 1]), grown.schema).schema == grown.schema != log.schema


def test_predictions_that_are_not_finite_stop_the_run(tmp_path: Path, log: Any) -> None:
    broken = kd.models.DLRM(log.schema, 4, [4], [4, 1])
    broken.top_mlp.dense_layers[-1].set_weights([np.full((4, 1), np.nan), np.zeros(1)])
    path = save(NEW, tmp_path / "rows.csv")
    with pytest.raises(ValueError, match="prediction of row 0 {'unused': '1000'} is nan"):
        predict_files(broken, path, output=tmp_path / "p.csv", preprocessor=log.preprocessor, id_columns=["unused"])
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.neutral
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, log: Any, model: Any) -> None:
    path = save(NEW, tmp_path / "rows.csv")

    def meddle(done: int, total: int | None, stage: str) -> None:
        os.utime(path, (0, 0))

    with pytest.raises(ValueError, match="rows.csv: changed while it was read"):
        predict_files(model, path, output=tmp_path / "p.csv", preprocessor=log.preprocessor, progress=meddle)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


# A process that is killed in the middle of its output.
KILLED = """
import os, signal, sys
import keras_dlrm as kd
from keras_dlrm.scoring import predict_files
schema = kd.Schema(dense=["price"])
model = kd.models.DCNv2(schema, deep_mlp=[4])
calls = 0
def stop(done, total, stage):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
predict_files(model, sys.argv[1], output=sys.argv[2], preprocessor=None, batch_size=8192, progress=stop)
"""


@pytest.mark.slow
@pytest.mark.neutral
def test_a_killed_run_leaves_no_output(programs: Path, tmp_path: Path) -> None:
    pl.DataFrame({"price": np.arange(300_000.0)}).write_parquet(tmp_path / "rows.parquet")
    done = subprocess.run(
        [programs / "python", "-c", KILLED, str(tmp_path / "rows.parquet"), str(tmp_path / "p.parquet")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    assert list(tmp_path.glob("*.parquet")) == [tmp_path / "rows.parquet"]
