"""Logits shifted to the click rate of a part: every kind of last layer, labels one by one, and what stays as it is."""

import json

import keras
import numpy as np
import pytest
from helpers.zoo import MODELS

import keras_dlrm as kd
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.training.calibrating import calibrate
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


@pytest.mark.parametrize("name", NAMES)
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


def test_a_run_keeps_the_model_whose_clicks_are_those_of_the_newest_part(tmp_path):
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 20), kd.Categorical("b", 20)])
    log = PlantedClickLog(schema, seed=0).write(tmp_path / "log", {"train": 2000, "valid": 2000, "test": 500})
    model = {"type": "DLRM", "embedding_dim": 4, "bottom_mlp": [4], "top_mlp": [4, 1]}
    few = Experiment(model, optimizer={"name": "adam", "learning_rate": 1e-5}, batch_size=500)  # untrained, as it were
    plain = train(few, log, tmp_path / "plain")
    result = train(few.override({"calibrate": True}), log, tmp_path / "run")
    assert plain["shifts"] == {} and abs(plain["valid"]["calibration"] - 1) > 0.1
    assert list(result["shifts"]) == ["label"] and result["valid"]["calibration"] == pytest.approx(1, abs=1e-4)
    assert result["test"]["auc"] == pytest.approx(plain["test"]["auc"], abs=1e-6)
    assert result["test"]["logloss"] < plain["test"]["logloss"]
    saved = keras.saving.load_model(tmp_path / "run" / "model.keras")
    kept = json.loads((tmp_path / "run" / "result.json").read_text())
    assert predictions(saved, log.split("valid"), 500).mean() == pytest.approx(np.mean(log.split("valid").labels), abs=1e-4)
    assert kept["shifts"] == result["shifts"]
