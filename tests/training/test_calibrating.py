"""Logits shifted to the click rate of a part: every kind of last layer, labels one by one, and what stays as it is."""

import keras
import numpy as np
import pytest
from helpers.suite import suite_on
from helpers.zoo import MODELS

import keras_dlrm as kd
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.training import run
from keras_dlrm.training.calibrating import calibrate, lacking
from keras_dlrm.training.callbacks import predictions
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run import train

NAMES = [
    "dlrm dot", "logistic regression", "fm", "fm without first order", "xdeepfm", "autoint", "neumf", "rankmixer", "wukong",
    "dcnv3", "dcnv2 parallel", "twotower", "mmoe in dlrm", "ple in dcnv2", "labels of autoint", "several labels of dcnv3",
]  # fmt: skip
# Their logits have no bias.
WITHOUT = ("fm without first order", "twotower")


class Part:
    """Rows of a planted log, whose labels are 1 in one of ten rows, or of eight for a second label, and missing in some."""

    def __init__(self, schema, folder):
        one = kd.Schema(schema.dense, schema.categorical)
        self._split = PlantedClickLog(one, seed=0).write(folder, {"valid": 2000}).split("valid")
        self.schema = schema
        rows = np.arange(2000)
        every = [np.where(rows % 5 == 1, np.nan, rows % (10 - 2 * i) == 0) for i in range(len(schema.labels))]
        self.labels = np.stack(every, axis=1) if len(every) > 1 else rows % 10 == 0

    def __len__(self):
        return 2000

    def __getattr__(self, name):
        return getattr(self._split, name)


@pytest.mark.parametrize("name", [*NAMES[:3], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[3:])])
def test_means_become_click_rates_and_ranks_stay(name, tmp_path):
    model = MODELS[name].make()
    part = Part(model.schema, tmp_path / "log")
    before = predictions(model, part, 500)
    shifts = calibrate(model, part, 500)
    after = predictions(model, part, 500)
    if name in WITHOUT:
        assert not shifts
        np.testing.assert_array_equal(after, before)
        return
    assert list(shifts) == list(model.schema.labels)
    known = ~np.isnan(part.labels.reshape(2000, -1)).any(axis=1)
    np.testing.assert_allclose(after[known].mean(axis=0), part.labels[known].mean(axis=0), atol=1e-4)
    for own, then in zip(after.reshape(2000, -1).T, before.reshape(2000, -1).T, strict=True):
        assert (np.diff(own[np.argsort(then)]) > -1e-6).all()
    assert calibrate(model, part, 500) == {}  # within noise


class Hidden(kd.models.ClickModel):
    """A last layer behind a bias that moves all logits alike, but only as long as they are positive."""

    def __init__(self, schema, **options):
        super().__init__(schema, **options)
        self.hidden = keras.layers.Dense(1, "relu", kernel_initializer="zeros", bias_initializer="ones")
        self.last = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")

    def logits(self, inputs, training=None):
        return self.last(self.hidden(inputs["dense"]))


def test_a_bias_that_cannot_take_the_whole_shift_stays(tmp_path):
    model = Hidden(kd.Schema(["x"], [kd.Categorical("a", 5)]))
    part = Part(model.schema, tmp_path / "log")
    before = predictions(model, part, 500)
    assert calibrate(model, part, 500) == {}
    np.testing.assert_array_equal(predictions(model, part, 500), before)


def test_a_label_of_rare_clicks_is_shifted(tmp_path):
    model = kd.models.LogisticRegression(kd.Schema(["x"], [kd.Categorical("a", 5)]))
    part = Part(model.schema, tmp_path / "log")
    model.linear.bias.assign([-11.0])
    assert calibrate(model, part, 500)["label"] > 8
    assert predictions(model, part, 500).mean() == pytest.approx(0.1, abs=1e-4)


def test_the_second_label_of_esmm_is_that_of_rows_with_the_first(tmp_path):
    model = MODELS["labels of autoint"].make()
    part = Part(model.schema, tmp_path / "log")
    rows = np.arange(2000)
    part.labels = np.stack([rows % 4 == 0, rows % 16 == 0], axis=1).astype(float)
    calibrate(model, part, 500, esmm=True)
    p = predictions(model, part, 500)
    assert p[:, 0].mean() == pytest.approx(0.25, abs=1e-4) and p[rows % 4 == 0, 1].mean() == pytest.approx(0.25, abs=1e-4)


@pytest.mark.neutral
def test_few_clicks_count_where_the_model_expects_far_more_and_rows_of_one_class_say_nothing():
    few = np.arange(4000) < 3
    assert lacking(few, np.full(4000, 0.028)) == pytest.approx(np.log(3 / 3997) - np.log(0.028 / 0.972), abs=1e-6)
    assert lacking(few, np.full(4000, 0.001)) == 0.0  # within noise
    assert lacking(np.zeros(1000), np.full(1000, 0.5)) == lacking(np.ones(1000), np.full(1000, 0.5)) == 0.0
    assert lacking(np.arange(1000) < 100, np.full(1000, 0.5), np.where(np.arange(1000) < 100, 0.0, 1.0)) == 0.0


def log_in(folder):
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 20), kd.Categorical("b", 20)])
    return PlantedClickLog(schema, seed=0).write(folder / "log", {"train": 2000, "valid": 2000, "test": 500})


MODEL = {"type": "DLRM", "embedding_dim": 4, "bottom_mlp": [4], "top_mlp": [4, 1]}
# Untrained, as it were.
FEW = Experiment(MODEL, optimizer={"name": "adam", "learning_rate": 1e-5}, batch_size=500)


@suite_on("torch")
def test_a_run_keeps_the_model_whose_clicks_are_those_of_the_validation_part(tmp_path, monkeypatch):
    log, chosen = log_in(tmp_path), FEW.override({"calibrate": True})
    plain = train(FEW, log, tmp_path / "plain")

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # between the model and its result
        patched.setattr(run, "_reported", killed)
        with pytest.raises(KeyboardInterrupt):
            train(chosen, log, tmp_path / "killed")
    result = train(chosen, log, tmp_path / "run")
    resumed = train(chosen, log, tmp_path / "killed", resume=True)
    assert resumed["shifts"] == pytest.approx(result["shifts"]) and resumed["test"] == pytest.approx(result["test"])
    assert plain["shifts"] == {} and abs(plain["valid"]["calibration"] - 1) > 0.1
    assert list(result["shifts"]) == ["label"] and result["valid"]["calibration"] == pytest.approx(1, abs=1e-4)
    assert result["test"]["auc"] == pytest.approx(plain["test"]["auc"], abs=1e-6)
    assert result["test"]["logloss"] < plain["test"]["logloss"]
    saved = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert predictions(saved, log.split("valid"), 500).mean() == pytest.approx(np.mean(log.split("valid").labels), abs=1e-4)
    rates = [next(row for row in each["baselines"] if row["model"] == "click rate") for each in (plain, result)]
    assert abs(rates[1]["calibration"] - 1) < 0.2 and not (tmp_path / "run" / "shifts.json").exists()


@pytest.mark.neutral
@pytest.mark.slow
def test_without_a_test_part_there_is_no_shift_to_score(tmp_path):
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 20), kd.Categorical("b", 20)])
    log = PlantedClickLog(schema, seed=0).write(tmp_path / "log", {"train": 2000, "valid": 2000})
    assert train(FEW.override({"calibrate": True}), log, tmp_path / "run")["shifts"] == {}
