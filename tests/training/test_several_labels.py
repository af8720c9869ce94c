"""Runs of several labels: scores, baselines, figures and tables of each, and of their means."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.cli import group
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run import check_parts

pytestmark = [pytest.mark.usefixtures("quick_exports"), suite_on("torch")]


def frame() -> dict[str, Any]:
    r = np.random.default_rng(0)
    x, user = r.normal(size=1200), r.integers(0, 12, 1200)
    like = (r.random(1200) < 1 / (1 + np.exp(x))).astype(float)
    like[::4] = np.nan
    return {"price": x, "user": user, "click": (r.random(1200) < 1 / (1 + np.exp(-x - user % 2))).astype(float), "like": like}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> kd.Run:
    settings = {"epochs": 2, "model.deep_mlp": [8], "model.tasks": kd.tasks.MMoE([4], 2, [6]), "loss_weights": {"like": 0.5}}
    output = tmp_path_factory.mktemp("runs") / "first"
    return kd.train(frame(), label=["click", "like"], model="DCNv2", settings=settings, output=output, verbose=False)


def test_a_run_has_scores_history_baselines_and_verdicts_of_each_label(run: kd.Run) -> None:
    test, history = run.result["test"], run.result["history"]
    for name in ("auc", "logloss", "ne"):
        assert test[name] == pytest.approx((test[f"{name}_click"] + test[f"{name}_like"]) / 2)
        for prefix in ("", "val_"):
            assert {f"{prefix}{name}", f"{prefix}{name}_click", f"{prefix}{name}_like"} <= set(history)
    part = run.log.split("test")
    p = run.model.predict(dict(part.arrays()[0]), verbose=0)
    have = ~np.isnan(part.labels[:, 1])
    assert test["auc_like"] == pytest.approx(kd.metrics.auc(part.labels[have, 1], p[have, 1]))
    np.testing.assert_allclose(np.load(run.directory / "predictions.npy"), p, rtol=1e-5)
    assert set(run.result["labels"]) == {"click", "like"}
    assert [b["model"] for b in run.result["labels"]["like"]["baselines"]] == ["click rate", "logistic regression"]
    assert run.result["verdict"].startswith("click: DCNv2 ") and " like: DCNv2 " in run.result["verdict"]
    assert run.experiment.model["tasks"]["type"] == "MMoE" and run.experiment.loss_weights == {"like": 0.5}
    assert "like, test" in repr(run) and "mean, test" in repr(run)


def test_the_report_and_the_notebook_show_each_label(run: kd.Run) -> None:
    page = Path(run.report()).read_text()
    assert "<h1>click</h1>" in page and "<h1>like</h1>" in page and page.count("<h2>Lift by decile</h2>") == 2
    figures = json.loads((run.directory / "report.json").read_text())
    assert set(figures["labels"]) == {"click", "like"}
    assert figures["labels"]["like"]["reliability"]["rows"] != figures["labels"]["click"]["reliability"]["rows"]
    assert "reliability like" in run._repr_html_()


def test_predictions_have_a_column_for_each_label(run: kd.Run, tmp_path: Path) -> None:
    import polars as pl

    rows = {name: values[:7] for name, values in frame().items()}
    p = run.predict(rows)
    assert p.shape == (7, 2) and p.dtype == np.float32
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    kd.scoring.predict_files(run.model, tmp_path / "rows.parquet", output=tmp_path / "p.parquet", preprocessor=run.preprocessor)
    written = pl.read_parquet(tmp_path / "p.parquet")
    assert written.columns == ["probability_click", "probability_like"]
    np.testing.assert_allclose(written.to_numpy(), p, rtol=1e-5)
    kd.scoring.predict_split(run.model, run.log.split("test"), output=tmp_path / "test.csv")
    assert pl.read_csv(tmp_path / "test.csv").columns == ["row", "click", "like", "probability_click", "probability_like"]


def test_the_command_line_scores_each_label(run: kd.Run, tmp_path: Path) -> None:
    options = ["--data", str(run.directory / "data"), "--json"]
    model = str(run.directory / "model.keras")
    done = CliRunner().invoke(group, ["evaluate", model, *options, "--slice-by", "user", "--report", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    result = json.loads(done.output.splitlines()[-1])
    assert result["auc_like"] == pytest.approx(run.result["test"]["auc_like"], abs=1e-6)
    assert "like: user by value" in done.output and len(result["labels"]["click"]["slices"]) >= 1
    assert "<h1>like</h1>" in (tmp_path / "r.html").read_text()


def test_models_are_compared_by_label(run: kd.Run, tmp_path: Path) -> None:
    options = ["--data", str(run.directory / "data"), "--seeds", "1", "--epochs", "1", "--samples", "20", "--json"]
    models = ["--model", "DCNv2", "--model", "LogisticRegression"]
    done = CliRunner().invoke(group, ["compare", *options, *models, "--output", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    result = json.loads(done.output.splitlines()[-1])
    assert {row["label"] for row in result["differences"]} == {"click", "like"}
    assert {"click rate, click", "logistic regression, like"} <= {row["model"] for row in result["models"]}


def test_experiments_name_losses_and_refuse_what_does_not_fit(run: kd.Run) -> None:
    experiment = Experiment({"type": "DCNv2", "deep_mlp": [4], "embedding_dim": 4}, loss="esmm")
    assert isinstance(experiment.build(run.log.schema).loss.loss, kd.losses.ESMM)
    one = run.log.schema.with_label("click")
    with pytest.raises(ValueError, match=r"ESMM: the schema has the labels \['click'\]; it needs two"):
        experiment.build(one)
    with pytest.raises(ValueError, match="loss_weights=3 must be a mapping by label"):
        Experiment(loss_weights=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="label_smoothing=0.1 is not of loss='esmm'"):
        Experiment(loss="esmm", label_smoothing=0.1)
    with pytest.raises(ValueError, match="train: label="):
        kd.train(frame(), label="click", schema=run.log.schema, verbose=False)
    rows = {**frame(), "like": np.where(np.isnan(frame()["like"]), np.nan, 1.0)}
    with pytest.raises(ValueError, match="all labels in 'like' are 1"):
        kd.train(rows, label=["click", "like"], output="runs/never", verbose=False)
    assert keras.backend.backend() in run.result["backend"]


def test_a_part_without_a_label_is_named(tmp_path: Path) -> None:
    rows = frame()
    schema = kd.Schema(dense=["price"], categorical=[kd.Categorical("user")], label=["click", "like"])
    valid = {**rows, "like": np.full(1200, np.nan)}
    log = kd.data.tables.preprocess(schema, train=rows, valid=valid, output=tmp_path / "log")
    with pytest.raises(ValueError, match="no row of the valid part has a label 'like'"):
        check_parts(log)
