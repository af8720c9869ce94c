"""The command line as a user meets it: exit codes, tables, JSON, and whole paths from raw files to scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from helpers.suite import suite_on

from keras_dlrm.artifacts import verify
from keras_dlrm.cli import COMMANDS, group, main
from keras_dlrm.cli.options import apply_experiment_options
from keras_dlrm.cli.quantities import DURATION
from keras_dlrm.data.packed.packed import open as load
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.metrics import scores
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run_files import read_predictions

TINY = ["--batch-size", "128", "--epochs", "1", "--set", "model.embedding_dim=4", "--set", "patience=0"]


def run(*args: object) -> tuple[int, str]:
    outcome = CliRunner().invoke(group, [str(a) for a in args], catch_exceptions=False)
    return outcome.exit_code, outcome.output


def last_json(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


@pytest.mark.neutral
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    for path in [[name]] if name != "preprocess" else [[name, "tables"], [name, "criteo"]]:
        code, text = run(*path, "--help")
        assert code == 0
        assert f"keras-dlrm {' '.join(path)}" in text.split("Example")[1]


@pytest.mark.slow
@pytest.mark.neutral
def test_a_schema_is_inferred_printed_and_used(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {"price": rng.normal(size=400), "city": rng.choice(["Oslo", "Rome", "Lima"], 400), "row_id": np.arange(400)}
    pl.DataFrame({"click": rng.integers(0, 2, 400), **columns}).write_csv(tmp_path / "clicks.csv")
    code, text = run("schema", tmp_path / "clicks.csv", "--label", "click")
    assert code == 0
    assert "- {name: price, transform: distinct_quantile, encoding: piecewise_linear}  # numbers with a fraction" in text
    assert "- {name: city}  # texts: 3 values" in text
    assert "# - {name: row_id}: has 400 values in 400 rows: it names rows and says nothing about others" in text
    to = ["--output", tmp_path / "log.yaml"]
    assert run("schema", tmp_path / "clicks.csv", "--label", "click", *to) == (0, "")
    assert (tmp_path / "log.yaml").read_text() == text
    with pytest.raises(FileExistsError, match="log.yaml exists; give --overwrite, or another file"):
        run("schema", tmp_path / "clicks.csv", "--label", "click", *to)
    code, _ = run("schema", tmp_path / "*.csv", "--label", "click", "--csv-separator", ",", *to, "--overwrite")
    assert code == 0
    table = ["--train", tmp_path / "clicks.csv", "--fractions", "0.8", "0.1", "0.1"]
    code, text = run("preprocess", "tables", "--schema", tmp_path / "log.yaml", *table, "--output", tmp_path / "log", "--json")
    assert (code, last_json(text)["rows"]) == (0, {"train": 320, "valid": 40, "test": 40})
    for by in ("row_id", "random"):
        options = ["--split-by", by, "--seed", "1", "--output", tmp_path / by, "--json"]
        code, text = run("preprocess", "tables", "--schema", tmp_path / "log.yaml", *table, *options)
        assert (code, last_json(text)["rows"]) == (0, {"train": 320, "valid": 40, "test": 40})
    first, ordered, shuffled = (load(tmp_path / name).split("test").arrays()[0]["dense"] for name in ("log", "row_id", "random"))
    assert (first == ordered).all() and not (first == shuffled).all()


@pytest.mark.neutral
@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), (".5h", 1800), (60.0, 60)])
def test_a_length_of_time_has_a_unit(text: str | float, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.neutral
@pytest.mark.parametrize("text", ["0", "-3", "10 minutes", "1d", "m", "nan", "9" * 400])
def test_a_length_of_time_is_above_zero(text: str) -> None:
    with pytest.raises(click.UsageError, match="must be seconds, minutes or hours, such as 90s, 10m or 2h"):
        DURATION.convert(text, None, None)


@suite_on("torch")
def test_train_evaluate_and_export_follow_each_other(planted: Path, tmp_path: Path) -> None:
    small = ["--set", "model.bottom_mlp=[8,4]", "--set", "model.top_mlp=[8,1]"]
    sliced = ["--slice-by", "a", "--slice-by", "x", "--group-by", "a"]
    code, text = run("train", "--data", planted, "--output", tmp_path / "run", *TINY, *small, *sliced, "--tensorboard", "--json")
    assert code == 0
    assert "best possible AUC" in text and " the logistic regression" in text
    trained = last_json(text)
    assert (tmp_path / "run" / "report.png").stat().st_size > 10_000
    assert any((tmp_path / "run" / "tensorboard").rglob("events*"))
    assert not [path for path in (tmp_path / "run").iterdir() if path.stem == "resume"]

    assert (tmp_path / "run" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert [row["model"] for row in trained["baselines"]] == ["click rate", "logistic regression"]
    assert trained["verdict"] in text.replace("\n", " ")
    figures = json.loads((tmp_path / "run" / "report.json").read_text())
    tables = [("a", "value"), ("a", "frequency"), ("a", "exposures"), ("a", "age"), ("x", "value")]
    assert [(table["column"], table["by"]) for table in figures["slices"]] == tables
    assert {row["column"] for row in figures["importance"]["columns"]} == {"x", "z", "a", "b"}
    assert {"report.html", "report.json"} <= {file.name for file in verify(tmp_path / "run").files}

    report = ["--report", tmp_path / "own.html"]
    code, text = run("evaluate", tmp_path / "run" / "model.keras", "--data", planted, *sliced, *report, "--json")
    assert code == 0
    scored = last_json(text)
    assert "Importance of columns" in (tmp_path / "own.html").read_text()
    with pytest.raises(FileExistsError, match=r"own\.html exists; give another name"):
        run("evaluate", tmp_path / "run" / "model.keras", "--data", planted, *report)
    assert scored["grouped_auc"] == pytest.approx(figures["grouped_auc"], abs=1e-6)
    for one, other in zip(scored["slices"], figures["slices"], strict=True):
        assert [row["slice"] for row in one["rows"]] == [row["slice"] for row in other["rows"]]
        assert [row["logloss"] for row in one["rows"]] == pytest.approx([row["logloss"] for row in other["rows"]])
    assert scored["auc"] == pytest.approx(trained["test"]["auc"], abs=1e-9)
    assert scored["rows"] == 300

    code, text = run("export", tmp_path / "run" / "model.keras", "--output", tmp_path / "served", "--json")
    assert code == 0
    assert (tmp_path / "served" / "1" / "saved_model.pb").exists()


@suite_on("torch")
def test_compare_reports_every_model_and_the_difference(planted: Path, tmp_path: Path) -> None:
    models = ["--model", "DCN", "--model", "DCNv2", "--set", "model.deep_mlp=[8]", "--set", "model.cross_layers=1"]
    args = ["compare", "--data", planted, *models, *TINY, "--seeds", "2", "--samples", "40", "--output", tmp_path / "c"]
    code, text = run(*args, "--json")
    assert code == 0
    compared = last_json(text)
    assert [row["model"] for row in compared["models"]] == ["DCN", "DCNv2", "click rate", "logistic regression"]
    assert all(row["seeds"] == 2 and row["± auc"] >= 0 for row in compared["models"][:2])
    assert text.count("the logistic regression") >= 2 and compared["differences"][-1]["difference"] == "DCNv2 - logistic regression"
    gap = compared["models"][0]["auc"] - compared["models"][1]["auc"]
    assert compared["differences"][0]["mean"] == pytest.approx(gap, abs=1e-6)
    assert compared["differences"][0]["low"] <= gap <= compared["differences"][0]["high"]
    # Finished runs are not repeated.
    assert last_json(run(*args, "--json")[1]) == compared


@suite_on("torch")
def test_compare_counts_rows_by_their_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    schema = Schema(categorical=[Categorical("c", 9)], sample_weight="w", soft_labels=True)
    with PackedWriter(tmp_path / "log", schema) as writer:
        for part in ("train", "test"):
            weights = rng.integers(0, 3, 300).astype(np.float32)
            writer.append(part, {"sparse": rng.integers(0, 9, (300, 1))}, rng.random(300).astype(np.float32), weights)
    models = ["--model", "LogisticRegression", "--model", "DCN", "--epochs", "1", "--seeds", "1", "--samples", "40"]
    code, text = run("compare", "--data", tmp_path / "log", *models, "--output", tmp_path / "c", "--json")
    compared = last_json(text)
    labels, weights = (load(tmp_path / "log").split("test").labels, load(tmp_path / "log").split("test").sample_weights())
    expected = scores(labels, read_predictions(tmp_path / "c" / "DCN-seed0"), weights)
    assert code == 0 and compared["models"][1]["logloss"] == pytest.approx(expected["logloss"], abs=1e-6)
    gap = compared["models"][0]["auc"] - compared["models"][1]["auc"]
    assert compared["differences"][0]["mean"] == pytest.approx(gap, abs=1e-6)


@suite_on("torch")
def test_what_tune_writes_is_trained_and_models_are_tuned_before_they_are_compared(planted: Path, tmp_path: Path) -> None:
    small = [*TINY, "--set", "model.deep_mlp=[8]", "--set", "model.cross_layers=1"]
    args = ["tune", "--data", planted, "--model", "DCN", *small, "--trials", "2", "--output", tmp_path / "t"]
    code, text = run(*args, "--json")
    assert code == 0
    tuned = last_json(text)
    assert tuned["trials"] == 2 and tuned["best"]["state"] == "complete"
    assert f"keras-dlrm train --data {planted} --config {tmp_path / 't' / 'best.yaml'}" in text
    assert max(map(len, text[: text.index("report.html")].splitlines())) <= 80
    best = Experiment.load(tmp_path / "t" / "best.yaml")
    # As the options have it.
    assert (best.batch_size, best.model["deep_mlp"], best.model["cross_layers"], best.epochs) == (128, [8], 1, 1)
    code, text = run("train", "--data", planted, "--config", tmp_path / "t" / "best.yaml", "--output", tmp_path / "run", "--json")
    assert last_json(text)["valid"]["auc"] == pytest.approx(tuned["best"]["auc"], abs=1e-5)

    models = ["--model", "DCN", "--model", "DCNv2", *small, "--tuned", ".001s", "--seeds", "1", "--samples", "20"]
    code, text = run("compare", "--data", planted, *models, "--output", tmp_path / "c", "--json")
    assert code == 0 and [row["model"] for row in last_json(text)["models"]][:2] == ["DCN", "DCNv2"]
    for model in ("DCN", "DCNv2"):
        assert Experiment.load(tmp_path / "c" / f"{model}-tuned" / "best.yaml").model["type"] == model


@pytest.mark.neutral
def test_preprocess_tables_writes_what_train_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"u": [f"u{i}" for i in rng.integers(0, 9, 300)], "x": rng.normal(size=300),
                          "click": rng.integers(0, 2, 300)})  # fmt: skip
    frame.write_csv(tmp_path / "log.csv")
    Schema(dense=["x"], categorical=[Categorical("u", min_count=2)], label="click").save(tmp_path / "schema.yaml")
    code, text = run("preprocess", "tables", "--schema", tmp_path / "schema.yaml", "--train", tmp_path / "log.csv",
                     "--fractions", 0.8, 0.1, 0.1, "--output", tmp_path / "log", "--json")  # fmt: skip
    assert code == 0
    assert last_json(text)["rows"] == {"train": 240, "valid": 30, "test": 30}


@pytest.mark.neutral
def test_preprocess_tables_takes_new_days_and_skips_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("click,x,u\n1,2,a\n0,3,b\n")
    (tmp_path / "b.csv").write_text("click,x,u\n1,2,a\n0,3,c\n2,0,d\n")
    Schema(dense=["x"], categorical=[Categorical("u")], label="click").save(tmp_path / "schema.yaml")
    code, _ = run("preprocess", "tables", "--schema", tmp_path / "schema.yaml", "--train", tmp_path / "a.csv",
                  "--output", tmp_path / "a", "--workers", 1)  # fmt: skip
    assert code == 0
    args = ["preprocess", "tables", "--preprocessor", tmp_path / "a", "--train", tmp_path / "b.csv", "--json"]
    code, text = run(*args, "--vocabulary", "grown", "--on-error", "skip", "--output", tmp_path / "b")
    assert code == 0
    assert last_json(text)["tables"] == {"u": 4} and last_json(text)["skipped"] == 1
    with pytest.raises(ValueError, match="max_skipped=0"):
        run(*args, "--on-error", "skip", "--max-skipped", 0, "--output", tmp_path / "c")


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "--data", "nowhere"], ["nowhere"]),
        (["train", "--set", "model.embeding_dim=3"], ["embeding_dim"]),
        (["train", "--set", "epochs=0"], ["--epochs 0", ">= 1"]),
        (["train", "--set", "nonsense"], ["key=value"]),
        (["train", "--resume"], ["--output"]),
        (["train", "--slice-by", "country"], ["--slice-by: no column 'country'"]),
        (["train", "--group-by", "x1"], ["--group-by: 'x1' cannot group rows; give a categorical column"]),
        *((["train", "--learning-rate", rate], ["--learning-rate", "finite number above 0"]) for rate in ("nan", "inf", "0", "-1")),
        (["train", "--set", "optimizer={name: adam, learning_rate: -0.1}"], ["optimizer.learning_rate=-0.1"]),
        (["train", "--output", "torn.keras/run"], ["torn.keras cannot be written to"]),
        (["train", "--optimizer", "adagard"], ["--optimizer adagard is unknown"]),
        (["train", "--config", "torn.keras"], ["torn.keras: not a text file"]),
        (["evaluate", "torn.keras", "--data", "x"], ["torn.keras", "only a part"]),
        (["export", "torn.keras", "--output", "x"], ["torn.keras", "only a part"]),
        (["evaluate", ".", "--data", "x"], ["is a folder"]),
        (["preprocess", "tables", "--schema", "bad.json", "--train", "x.csv", "--output", "x"], ["bad.json", "JSON"]),
        (["evaluate", "missing.keras", "--data", "x"], ["missing.keras"]),
        (["export", "missing.keras", "--output", "x"], ["missing.keras"]),
        (["compare", "--model", "DLRM"], ["two models"]),
        (["preprocess", "criteo", "absent.txt", "--output", "x"], ["absent.txt"]),
    ],
)
def test_bad_input_gives_exit_code_2_and_one_sentence(
    args: list[str], words: list[str], planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("torn.keras").write_bytes(b"PK\x03\x04\xff\xfe")
    Path("bad.json").write_text("{")
    if args[0] == "train" and "--data" not in args:
        args = [*args, "--data", str(planted)]
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    for word in words:
        assert word in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.glob("runs/*/model.keras"))


@pytest.mark.neutral
def test_help_does_not_import_keras() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "keras_dlrm.cli", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    imported = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "keras_dlrm.cli" in imported
    assert "keras" not in imported


@pytest.mark.slow
@pytest.mark.neutral
def test_preprocessing_text_starts_no_framework(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("click,x\n1,2\n0,3\n")
    Schema(dense=["x"], label="click").save(tmp_path / "schema.yaml")
    command = [sys.executable, "-X", "importtime", "-m", "keras_dlrm.cli", "preprocess", "tables", "--schema"]
    command += [tmp_path / "schema.yaml", "--train", tmp_path / "log.csv", "--output", tmp_path / "out"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    imported = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "keras_dlrm.data.tables.job" in imported
    assert not imported & {"keras", "tensorflow", "jax", "torch", "matplotlib"}


@pytest.mark.slow
@pytest.mark.neutral
def test_single_values_count_over_named_options(planted: Path, tmp_path: Path) -> None:
    small = ["--set", "model.bottom_mlp=[8,4]", "--set", "model.top_mlp=[8,1]", "--set", "optimizer.l2=1e-6"]
    args = ["train", "--data", planted, "--output", tmp_path / "run", *TINY, "--optimizer", "sgd", *small]
    assert run(*args)[0] == 0
    text = (tmp_path / "run" / "experiment.yaml").read_text()
    assert "name: sgd" in text and "l2: 1.0e-06" in text


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("named", "settings", "rates"),
    [
        ({}, ["embedding_optimizer=rowwise_adagrad"], (0.5, 0.5)),
        ({"embedding_optimizer": "sgd"}, [], (0.5, 0.5)),
        ({"optimizer": "sgd"}, [], (0.5, None)),
        ({}, ["embedding_optimizer={name: sgd, learning_rate: 0.1}"], (0.5, 0.1)),
        ({}, ["optimizer.learning_rate=0.2", "embedding_optimizer.name=sgd"], (0.2, 0.5)),
        ({}, ["optimizer=sgd"], (0.5, None)),
    ],
    ids=str,
)
def test_the_learning_rate_is_that_of_every_optimizer_without_one(
    named: dict, settings: list[str], rates: tuple
) -> None:
    options = dict.fromkeys(["batch_size", "epochs", "optimizer", "embedding_optimizer", "mixed_precision"])
    found = apply_experiment_options(Experiment(), settings, **{**options, **named}, learning_rate=0.5)
    assert found.optimizer["learning_rate"] == rates[0]
    assert (found.embedding_optimizer or {}).get("learning_rate") == rates[1]


@suite_on("torch")
def test_a_saved_model_is_evaluated_in_a_new_process(planted: Path, programs: Path, tmp_path: Path) -> None:
    small = ["--set", "model.bottom_mlp=[8,4]", "--set", "model.top_mlp=[8,1]"]
    assert run("train", "--data", planted, "--output", tmp_path / "run", *TINY, *small)[0] == 0
    command = [programs / "keras-dlrm", "evaluate", str(tmp_path / "run" / "model.keras")]
    done = subprocess.run([*command, "--data", str(planted), "--json"], check=True, capture_output=True, text=True)
    assert last_json(done.stdout)["rows"] == 300
