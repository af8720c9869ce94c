"""Whole files scored: the same numbers as `predict`, in the order of the rows, with their ids alongside them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from helpers.table_logs import FORMATS, SCHEMA, example, make_rows, save, spoil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data import tables
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.data.tables import frames as table_frames
from keras_dlrm.data.tables import records as table_records
from keras_dlrm.data.tables import text as table_text
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.scoring import predict_files, predict_split

pytestmark = pytest.mark.usefixtures("quick_exports")

ROWS = 300
# Rows of a later day, with values that the vocabularies do not know.
NEW = [{**row, "unused": 1000 + i} for i, row in enumerate(make_rows(ROWS, seed=1))]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("log")
    return tables.preprocess(SCHEMA, save(make_rows(500), folder / "train.parquet"), output=folder / "log")


@pytest.fixture(scope="module")
def model(log: Any) -> Any:
    return kd.models.DLRM(log.schema, embedding_dim=4, bottom_mlp=[8, 4], top_mlp=[8, 1], init_scale=1.0, seed=0)


def expected(log: Any, model: Any, rows: list[dict[str, Any]]) -> np.ndarray:
    columns = {name: [row[name] for row in rows] for name in [*log.schema.dense_names, *log.schema.categorical_names]}
    return model.predict(log.preprocessor.transform(columns), verbose=0).ravel()


@pytest.mark.slow
@pytest.mark.parametrize("ending", FORMATS)
def test_predictions_are_those_of_predict_in_the_order_of_the_rows(
    tmp_path: Path, log: Any, model: Any, ending: str
) -> None:
    parts = [save(NEW[:200], tmp_path / f"day-1.{ending}"), save(NEW[200:], tmp_path / f"day-2.{ending}")]
    done = predict_files(
        model, tmp_path / f"day-*.{ending}", output=tmp_path / "p.parquet", preprocessor=log.preprocessor,
        id_columns=["unused", "city", "click"], batch_size=64,
    )  # fmt: skip
    found = pl.read_parquet(tmp_path / "p.parquet")
    assert (done.rows, done.skipped, len(found)) == (ROWS, 0, ROWS) and len(parts) == 2
    number = pl.String if "sv" in ending else pl.Int64
    assert found.schema == {"unused": number, "city": pl.String, "click": number, "probability": pl.Float32}
    assert found["unused"].cast(pl.Int64).to_list() == [row["unused"] for row in NEW]
    # A CSV file has no difference between an empty text and none.
    empty = "" if "sv" in ending else None
    assert found["city"].to_list() == [empty if row["city"] is None else row["city"] for row in NEW]
    answers = expected(log, model, NEW)
    assert np.ptp(answers) > 0.05
    np.testing.assert_allclose(found["probability"], answers, rtol=1e-5, atol=1e-7)


@pytest.mark.neutral
def test_names_of_files_may_look_like_patterns(tmp_path: Path, log: Any, model: Any) -> None:
    path = save(NEW, tmp_path / "day[1].parquet")
    save(NEW[:5], tmp_path / "day1.parquet")
    done = predict_files(
        model, path, output=tmp_path / "p[1]?.parquet", preprocessor=log.preprocessor, id_columns=["unused"]
    )
    assert done.rows == ROWS == len(pl.read_parquet(tmp_path / "p[1]?.parquet", glob=False))


@pytest.mark.neutral
def test_a_missing_id_column_and_a_file_that_is_no_parquet_are_named(tmp_path: Path, log: Any, model: Any) -> None:
    path = save(NEW, tmp_path / "rows.parquet")
    options: dict[str, Any] = {"output": tmp_path / "p.csv", "preprocessor": log.preprocessor}
    with pytest.raises(KeyError, match="rows.parquet: column 'key' is missing; the file has"):
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


@pytest.mark.slow
@pytest.mark.neutral
@pytest.mark.parametrize("ending", ["csv", "parquet", "tfrecord"])
@given(batch=st.integers(1, 400), block=st.integers(1, 150))
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_neither_the_batch_nor_the_blocks_of_the_file_change_the_result(
    tmp_path: Path, log: Any, model: Any, ending: str, batch: int, block: int
) -> None:
    path = save(NEW, tmp_path / f"rows.{ending}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_frames, "BLOCK_ROWS", block)
        patch.setattr(table_frames, "SLICE_ROWS", 3 * block)
        patch.setattr(table_text, "BLOCK_ROWS", block)
        patch.setattr(table_records, "BLOCK_RECORDS", block)
        done = predict_files(model, path, output=tmp_path / "p.csv", preprocessor=log.directory, batch_size=batch,
                             id_columns=["unused"], overwrite=True, workers=2)  # fmt: skip
    found = pl.read_csv(tmp_path / "p.csv")
    assert done.rows == ROWS and found["unused"].to_list() == [row["unused"] for row in NEW]
    np.testing.assert_allclose(found["probability"], expected(log, model, NEW), rtol=1e-5, atol=1e-6)


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
    found = pl.read_parquet(tmp_path / "p.parquet")
    assert found["unused"].cast(pl.Int64).to_list() == [row["unused"] for row in usable]
    np.testing.assert_allclose(found["probability"], expected(log, model, usable), rtol=1e-5, atol=1e-7)


@pytest.mark.neutral
@pytest.mark.parametrize("output", ["p.parquet", "p.csv"])
@pytest.mark.parametrize("ending", FORMATS)
def test_files_without_rows_give_the_columns_without_rows(
    tmp_path: Path, log: Any, model: Any, ending: str, output: str
) -> None:
    path = tmp_path / f"empty.{ending}"
    if ending == "parquet":
        pl.DataFrame([NEW[0]])[:0].write_parquet(path)
    elif "tfrecord" in ending:
        with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP") if ending.endswith("gz") else None):
            pass
    else:
        save(NEW[:1], path)
        import gzip

        whole = gzip.decompress(path.read_bytes()) if ending.endswith("gz") else path.read_bytes()
        header = whole.splitlines(keepends=True)[0]
        path.write_bytes(gzip.compress(header) if ending.endswith("gz") else header)
    done = predict_files(model, path, output=tmp_path / output, preprocessor=log.directory, id_columns=["unused"])
    assert done.rows == 0
    if output == "p.csv":
        assert (tmp_path / output).read_text() == "unused,probability\n"
    else:
        found = pl.read_parquet(tmp_path / output)
        assert found.schema == {"unused": pl.Int64 if ending == "parquet" else pl.String, "probability": pl.Float32}
    both = [path, save(NEW[:5], tmp_path / f"some.{ending}")]
    if "tfrecord" not in ending:
        done = predict_files(model, both, output=tmp_path / output, preprocessor=log.directory, overwrite=True)
        assert done.rows == 5


def test_columns_that_hold_ids_already_need_no_preprocessor(tmp_path: Path) -> None:
    schema = Schema(dense=["x"], categorical=[Categorical("a", 10), Categorical("tags", 6, hotness=2)])
    model = kd.models.DLRM(schema, 4, [4], [4, 1])
    frame = pl.DataFrame({"x": [0.5, -1.0], "a": [9, -1], "tags": [[5, 0], []]})
    frame.write_parquet(tmp_path / "ids.parquet")
    predict_files(model, tmp_path / "ids.parquet", output=tmp_path / "p.tsv.gz", preprocessor=None, column="p(click)")
    found = pl.read_csv(tmp_path / "p.tsv.gz", separator="\t")
    assert found.columns == ["p(click)"]
    answers = model.predict({"dense": np.array([[0.5], [-1]], "f"), "sparse": np.array([[9, 5, 0], [-1, -1, -1]])}, verbose=0)
    np.testing.assert_allclose(found["p(click)"], answers.ravel(), rtol=1e-5)
    pl.DataFrame({"x": [0.5], "a": [10], "tags": [[1]]}).write_parquet(tmp_path / "beyond.parquet")
    with pytest.raises(ValueError, match="row 0, column a: value '10' must be an integer id: 0 … 9"):
        predict_files(model, tmp_path / "beyond.parquet", output=tmp_path / "q.csv", preprocessor=None)


@pytest.mark.neutral
def test_id_columns_keep_their_types_and_parquet_holds_lists(tmp_path: Path, log: Any, model: Any) -> None:
    wide = pl.DataFrame(NEW[:4]).with_columns(
        big=pl.Series([2**63 - 1, None, 0, -1]), kind=pl.Series(["a", None, "b", "a"], dtype=pl.Categorical),
        when=pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 4), "1d"),
    )  # fmt: skip
    wide.write_parquet(tmp_path / "rows.parquet")
    names = ["big", "kind", "when", "tags", "price"]
    options: dict[str, Any] = {"preprocessor": log.directory, "id_columns": names}
    predict_files(model, tmp_path / "rows.parquet", output=tmp_path / "p.parquet", **options)
    found = pl.read_parquet(tmp_path / "p.parquet")
    assert found.drop("probability").equals(wide.select(names).with_columns(pl.col("kind").cast(pl.String)))
    assert found["tags"].dtype == pl.List(pl.String) and found["big"].dtype == pl.Int64
    with pytest.raises(ValueError, match="column 'tags' is List.*which a text file cannot hold"):
        predict_files(model, tmp_path / "rows.parquet", output=tmp_path / "p.csv", **options)


@pytest.mark.neutral
def test_records_without_an_id_have_none_and_several_are_a_bad_row(tmp_path: Path, log: Any, model: Any) -> None:
    rows = [dict(row) for row in NEW[:6]]
    del rows[1]["unused"]
    rows[4]["unused"] = [7, 8]
    with tf.io.TFRecordWriter(str(tmp_path / "rows.tfrecord")) as writer:
        for row in rows:
            writer.write(example(row))
    options: dict[str, Any] = {"preprocessor": log.directory, "id_columns": ["unused"]}
    done = predict_files(model, tmp_path / "rows.tfrecord", output=tmp_path / "p.parquet", on_error="skip", **options)
    assert str(done.examples[0]).endswith("row 4, column unused: value '[7, 8]' must be a single value.")
    assert pl.read_parquet(tmp_path / "p.parquet")["unused"].to_list() == [1000, None, 1002, 1003, 1005]


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"id_columns": "unused"}, TypeError, "id_columns='unused' is a string"),
        ({"id_columns": ["unused", "unused"]}, ValueError, "two columns 'unused'"),
        ({"id_columns": ["unused"], "column": "unused"}, ValueError, "two columns 'unused'"),
        ({"id_columns": ["key"]}, KeyError, "rows.csv: column 'key' is missing; the file has"),
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
    given = {"inputs": "rows.csv", "output": "p.csv", "preprocessor": log.preprocessor, **options}
    with pytest.raises(error, match=words):
        predict_files(model, given.pop("inputs"), **given)
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


@pytest.mark.neutral
def test_progress_counts_up_to_the_rows(tmp_path: Path, log: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_frames, "BLOCK_ROWS", 70)
    seen: list[tuple[int, int | None, str]] = []
    options: dict[str, Any] = {"output": tmp_path / "p.csv", "progress": lambda *state: seen.append(state)}
    predict_files(model, save(NEW, tmp_path / "rows.parquet"), preprocessor=log.preprocessor, **options)
    assert seen == [(n, ROWS, "score") for n in (70, 140, 210, 280, ROWS)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    schema = Schema(dense=["x"], categorical=[Categorical("a", 30), Categorical("b", 10, hotness=2)], label="click")
    folder = tmp_path_factory.mktemp("planted") / "log"
    return PlantedClickLog(schema, seed=1).write(folder, rows={"train": 100, "test": 250}) or kd.data.open(folder)


@pytest.mark.parametrize("batch", [64, 1000])
def test_a_split_is_scored_with_its_row_numbers_and_labels(tmp_path: Path, planted: Any, batch: int) -> None:
    data = kd.data.open(planted.directory)
    net = kd.models.DCNv2(data.schema, 4, deep_mlp=[8])
    done = predict_split(net, data.split("test"), output=tmp_path / "p.parquet", batch_size=batch)
    found = pl.read_parquet(tmp_path / "p.parquet")
    assert done.rows == 250 and found.schema == {"row": pl.Int64, "click": pl.Float32, "probability": pl.Float32}
    assert found["row"].to_list() == list(range(250))
    arrays, label = data.split("test").arrays()
    np.testing.assert_array_equal(found["click"], label)
    np.testing.assert_allclose(found["probability"], net.predict(dict(arrays), verbose=0).ravel(), rtol=1e-5)
    with pytest.raises(ValueError, match="columns 'row', 'click' and 'click'"):
        predict_split(net, data.split("test"), output=tmp_path / "q.parquet", column="click")
    with pytest.raises(ValueError, match="no column 'y', which the model takes"):
        predict_split(kd.models.DCNv2(Schema(["y"]), deep_mlp=[8]), data.split("test"), output=tmp_path / "q.parquet")


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


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(log: Any, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.mark.slow
@pytest.mark.neutral
def test_the_command_scores_files_in_a_process_of_its_own(
    programs: Path, tmp_path: Path, log: Any, model: Any, saved: Path
) -> None:
    save(spoil(NEW), tmp_path / "rows.csv")
    command = [
        programs / "keras-dlrm", "predict", saved, "--input", tmp_path / "*.csv", "--preprocessor", log.directory,
        "--id-column", "unused", "--on-error", "skip", "--output", tmp_path / "p.parquet", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["rows"] + said["skipped"] == len(spoil(NEW)) and said["rows_per_s"] > 0
    assert f"{said['skipped']} rows were skipped" in done.stderr and "column given" in done.stderr
    found = pl.read_parquet(tmp_path / "p.parquet")
    keep = found["unused"].cast(pl.Int64).is_first_distinct() & (found["unused"].cast(pl.Int64) == 1000)
    np.testing.assert_allclose(found["probability"].filter(keep), expected(log, model, NEW[:1]), rtol=1e-5, atol=1e-7)


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either --input"),
        (["--input", "x.csv", "--data", "d"], "give either --input"),
        (["--input", "x.csv"], "--input needs --preprocessor"),
        (["--input", "x.csv", "--preprocessor", "d", "--no-preprocessor"], "give one of them"),
        (["--input", "x.csv", "--no-preprocessor", "--split", "test"], "--split test needs --data"),
        (["--data", "d", "--id-column", "a"], "--id-column needs --input"),
        (["--data", "d", "--on-error", "skip"], "--on-error skip needs --input"),
        (["--data", "d", "--preprocessor", "d"], "--preprocessor needs --input"),
    ],
)
def test_wrong_options_give_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from keras_dlrm.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["predict", "model.keras", "--output", "p.csv", *arguments])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_the_command_scores_a_split(tmp_path: Path, planted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from click.testing import CliRunner

    from keras_dlrm.cli import group

    data = kd.data.open(planted.directory)
    kd.models.DCNv2(data.schema, 4, deep_mlp=[8]).save(tmp_path / "m.keras")
    arguments = ["predict", tmp_path / "m.keras", "--data", data.directory, "--output", tmp_path / "p.csv", "--json"]
    outcome = CliRunner().invoke(group, [str(a) for a in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0 and json.loads(outcome.output.splitlines()[-1])["rows"] == 250
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "row,click,probability"
