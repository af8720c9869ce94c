"""The baselines of a result: a logistic regression that is one, the verdict in words, and what to try."""

import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.metrics import Difference, log_loss, paired_difference, scores
from keras_dlrm.training import linear
from keras_dlrm.training.baselines import LOGISTIC, RATE, advice, baseline_predictions, beside, verdict
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.linear import LinearModel
from keras_dlrm.training.recipe import recipe

pytestmark = pytest.mark.neutral

RUN = {"history": {}, "epochs": 3, "best_epoch": 2}


def written(folder, schema, parts):
    """A log of packed batches and labels, and row weights, by part."""
    with PackedWriter(folder, schema) as writer:
        for name, (batch, *rest) in parts.items():
            writer.append(name, batch, *rest)
    return kd.data.open(folder)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    schema = kd.Schema(dense=["x", "z"], categorical=[kd.Categorical("a", 40), kd.Categorical("b", 15, hotness=3, combiner="mean")])
    rows = {"train": 6000, "valid": 500, "test": 4000}
    return PlantedClickLog(schema, seed=2).write(tmp_path_factory.mktemp("log") / "log", rows)


@pytest.mark.slow
def test_it_is_the_logistic_regression_of_scikit_learn(log):
    sklearn = pytest.importorskip("sklearn.linear_model", reason="scikit-learn, the oracle, is not installed")

    def features(part):
        batch, labels = part.arrays()
        dense, (a, *b) = batch["dense"], np.asarray(batch["sparse"]).T
        some = np.stack(b)[..., None] == np.arange(15)
        return np.hstack([dense, np.eye(40)[a], some.sum(0) / np.maximum(some.sum((0, 2)), 1)[:, None]]), labels

    x, labels = features(log.split("train"))
    mean, deviation = x[:, :2].mean(0), x[:, :2].std(0)
    x[:, :2] = (x[:, :2] - mean) / deviation
    oracle = sklearn.LogisticRegression(C=1 / 3, max_iter=1000).fit(x, labels)
    x, labels = features(log.split("test"))
    x[:, :2] = (x[:, :2] - mean) / deviation
    expected, found = oracle.predict_proba(x)[:, 1], LinearModel(log.schema)
    found.fit(log.split("train"), None)
    found = found.predict(log.split("test"))
    assert log_loss(labels, found) == pytest.approx(log_loss(labels, expected), abs=1e-3)
    assert np.abs(found - expected).mean() < 0.01


def test_encoded_columns_bend_and_a_missing_value_has_a_weight_of_its_own(tmp_path):
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (4000, 1)).astype(np.float32)
    x[::10] = -2.0
    chance = np.where(x[:, 0] == -2.0, 0.9, np.where(np.abs(x[:, 0]) > 0.5, 0.8, 0.1))
    labels = (random.random(4000) < chance).astype(np.float32)
    schema = kd.Schema(dense=[kd.Dense("x", encoding="piecewise_linear")])
    log = written(tmp_path / "log", schema, {"train": ({"dense": x}, labels)})
    model = LinearModel(schema)
    model.fit(log.split("train"), None)
    found = model.predict(log.split("train"))
    assert np.abs(found - chance)[np.abs(np.abs(x[:, 0]) - 0.5) > 0.1].mean() < 0.06


def test_rows_of_weight_0_count_nothing(tmp_path):
    schema = kd.Schema(categorical=[kd.Categorical("c", 5)], sample_weight="w", soft_labels=True)
    random = np.random.default_rng(0)
    batch, labels = {"sparse": random.integers(0, 5, (300, 1))}, random.random(300).astype(np.float32)
    weights = random.integers(0, 2, 300).astype(np.float32)
    found = []
    for i, given in enumerate((labels, np.where(weights > 0, labels, 1 - labels))):
        log = written(tmp_path / str(i), schema, {"train": (batch, given, weights), "test": (batch, given, weights)})
        found.append(baseline_predictions(log, "test")[LOGISTIC])
        probabilities = np.full(300, 0.4)
        said = beside(Experiment(), log, "test", probabilities, RUN)
        assert [row["model"] for row in said["baselines"]] == [RATE, LOGISTIC] and said["verdict"].startswith("DLRM ")
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("schema", [
    kd.Schema(dense=["x"]), kd.Schema(categorical=[kd.Categorical("c", 7, hashed=True)]),
    kd.Schema(categorical=[kd.Categorical("c", 9, hotness=2, combiner="sqrtn"), kd.Categorical("d", 9, table="c")], weighted=True),
])  # fmt: skip
def test_every_schema_has_a_baseline_that_beats_its_click_rate(schema, tmp_path):
    log = PlantedClickLog(schema, seed=0).write(tmp_path / "log", {"train": 3000, "test": 3000})
    rows = {row["model"]: row for row in beside(Experiment(), log, "test", np.full(3000, 0.5), RUN)["baselines"]}
    assert rows[RATE]["auc"] == 0.5 and rows[RATE]["ne"] == pytest.approx(1, abs=0.01)
    assert rows[LOGISTIC]["logloss"] < rows[RATE]["logloss"] and rows[LOGISTIC]["auc"] > 0.55


def test_a_log_is_fitted_once_and_of_a_long_one_some_rows_are_read(log, monkeypatch):
    own, fits = kd.data.open(log.directory), []
    fit = LinearModel.fit
    monkeypatch.setattr(linear, "_READ", 9 * 1000)
    monkeypatch.setattr(LinearModel, "fit", lambda model, *parts: (fits.append(1), fit(model, *parts)))
    probabilities = baseline_predictions(own, "test")[LOGISTIC]
    said = beside(Experiment(), own, "test", probabilities, RUN)["verdict"]
    assert len(fits) == 1
    assert said.startswith("DLRM and the logistic regression do not differ by more than noise: AUC +0.0000 ± 0.0000")
    assert "trained on 1,285 rows" in said
    # An eighth of the rows, spread over all of them, is almost as good.
    assert scores(own.split("test").labels, probabilities)["auc"] > 0.6


@pytest.mark.slow
def test_a_logistic_regression_is_compared_with_the_click_rate(log):
    probabilities = baseline_predictions(log, "test")[LOGISTIC]
    said = beside(Experiment(model={"type": "LogisticRegression"}), log, "test", probabilities, RUN)
    assert [row["model"] for row in said["baselines"]] == [RATE] and said["against"]["model"] == RATE
    assert said["verdict"].startswith("LogisticRegression beats the click rate by more than noise: AUC +0.")
    # Two scores are looked at, each with 97.5%.
    part = log.split("test")
    sure = paired_difference(part.labels, probabilities, np.full(len(part), log.split("train").labels.mean()), confidence=0.975)
    for score, difference in sure.items():
        assert said["against"][score] == pytest.approx(dict(zip(("difference", "low", "high"), difference, strict=False)))


@pytest.mark.parametrize(("auc", "loss", "said"), [
    (0.01, -0.01, "DLRM beats the logistic regression by more than noise: AUC +0.0100 ± 0.0020, log loss -0.0100 ± 0.0020."),
    (0.01, 0.0, "DLRM beats the"), (0.001, 0.001, "DLRM and the logistic regression do not differ"), (0.0, 0.01, "DLRM loses to"),
    (-0.01, 0.001, "DLRM loses to the logistic regression by more than noise: AUC -0.0100 ± 0.0020"),
    (0.01, 0.01, "DLRM ranks better than the logistic regression, and its probabilities are worse: "),
    (-0.01, -0.01, "DLRM ranks worse than the logistic regression, and its probabilities are better: "),
])  # fmt: skip
def test_the_verdict_tells_whether_it_is_noise_and_a_loser_what_to_try(log, auc, loss, said):
    against = {name: Difference(d, d - 0.002, d + 0.002, 0.5) for name, d in (("auc", auc), ("logloss", loss))}
    text = verdict("DLRM", LOGISTIC, against, Experiment(), log, RUN)
    assert text.startswith(said)
    assert ("What to try: " in text) == (auc < -0.002 or loss > 0.002)


def test_an_interval_that_says_nothing_is_no_verdict(log):
    against = {"auc": Difference(-0.6, -7.0, 6.0, 0.5), "logloss": Difference(0.1, -1.0, 1.0, 0.5)}
    text = verdict("DLRM", LOGISTIC, against, Experiment(), log, RUN)
    assert text == (
        "DLRM and the logistic regression cannot be told apart: the part that is scored has too few clicks, or rows without one."
    )


def test_a_baseline_that_is_right_about_nearly_all_rows_is_a_leak(tmp_path):
    rows = np.arange(600)
    frame = {"told": rows % 2, "user": rows % 7, "click": rows % 2}
    schema = kd.Schema(dense=["told"], categorical=["user"], label="click")
    split = {"train": 0.5, "valid": 0.25, "test": 0.25}
    own = kd.data.tables.preprocess(schema, frame, output=tmp_path / "log", split=split)
    said = beside(Experiment(), own, "test", np.full(len(own.split("test")), 0.5), RUN)["verdict"]
    assert "a column may give the label away; leave out what only follows a click" in said


def test_advice_follows_from_how_the_run_went(log):
    usual = recipe(log)
    short = usual.override(["epochs=3"])
    longer = {"history": {"logloss": [0.5, 0.4, 0.3], "val_logloss": [0.5, 0.4, 0.3]}, "epochs": 3, "best_epoch": 3}
    assert advice(short, log, longer) == ["--epochs 10: the last epoch was the best"]
    assert advice(usual, log, {**longer, "ended_by": "time budget"}) == ["more time: the last epoch was the best"]
    overfit = {"history": {"logloss": [0.5, 0.3], "val_logloss": [0.5, 0.6]}, "epochs": 2, "best_epoch": 1}
    assert advice(usual, log, overfit) == ["--learning-rate 0.0002: the first epoch was the best"]
    bare = usual.override(["model.dropout=0", "embedding_optimizer={name: adagrad, learning_rate: 0.01}"])
    tips = advice(bare, log, {**overfit, "best_epoch": 2, "history": {"logloss": [0.3, 0.2], "val_logloss": [0.5, 0.5]}})
    assert tips[0] == "the usual model.dropout, embedding_optimizer, which follows from the log"
    assert tips[1].startswith("--set embedding_optimizer.l2=0.001: ") and tips[2] == "--set model.dropout=0.5"
    own = Experiment.from_dict({**usual.to_dict(), "averaging": 0.0, "monitor": "auc"})  # as of a file
    settled = {"history": {}, "epochs": 4, "best_epoch": 2}
    assert [tip.split(":")[0].split(",")[0] for tip in advice(own, log, settled)] == [
        "the usual monitor", "--set averaging=0.999", "--set monitor=both",
    ]  # fmt: skip
    assert advice(Experiment.from_dict(usual.to_dict()), log, settled) == advice(usual, log, settled)
    assert advice(Experiment(), log, settled)[0].startswith("no --config and no options")
    assert advice(usual, log, settled) == ["--set model.embedding_dim=4, a smaller model"]
    plain = recipe(log, "LogisticRegression")
    assert advice(plain, log, settled) == ["keras-dlrm tune", "other columns: these may hardly interact"]
