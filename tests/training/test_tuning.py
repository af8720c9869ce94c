"""Tuning: the experiment itself comes first, failures and kills are counted, and what is written trains to the same score."""

from __future__ import annotations

import datetime
import subprocess
import sys
from types import SimpleNamespace

import keras
import pytest
import yaml
from helpers.children import environment, kill
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.training import tuning, tuning_trial
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run import train
from keras_dlrm.training.tuning_study import seconds_used

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 20)])
TINY = Experiment(
    model={"type": "DCN", "embedding_dim": 2, "deep_mlp": [4], "cross_layers": 1, "dropout": 0.1},
    optimizer={"name": "adam", "learning_rate": 0.01},
    batch_size=50, epochs=3, monitor="both", averaging=0.9, reasons={"batch_size": "small"},
)  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Without a test part, which tuning cannot read then."""
    rows = {"train": 300, "valid": 200}
    return PlantedClickLog(SCHEMA, seed=0).write(tmp_path_factory.mktemp("log") / "log", rows)


def states(found):
    return found.trials["state"].to_list()


class Untrained:
    """Trials that are scored by their learning rate and train nothing; `during` is done in the trial of a number."""

    def __init__(self, monkeypatch):
        self.during = {}
        monkeypatch.setattr(tuning_trial, "_trained", self.trained)

    def trained(self, experiment, log, seconds, trial, show):
        trial.set_user_attr("seconds", 0.5)
        if trial.number in self.during:
            self.during[trial.number]()
        score = -abs(experiment.optimizer["learning_rate"] - 0.005)
        history = {"loss": [1.0], "val_auc": [0.5 + score], "val_logloss": [0.6], "val_ne": [0.5]}
        trial.report(score, 0)
        return SimpleNamespace(best=score, best_epoch=0, history=history), False


@pytest.fixture
def untrained(monkeypatch):
    return Untrained(monkeypatch)


def raising(error):
    def fail():
        raise error

    return fail


@suite_on("torch")
def test_a_study_continues_and_its_best_is_what_is_written(log, tmp_path, untrained):
    first = kd.tune(log, experiment=TINY, output=tmp_path / "t", trials=2)
    assert states(first) == ["complete"] * 2
    assert first.trials["optimizer.learning_rate"][0] == 0.01 and first.trials["batch_size"][0] == 50
    more = kd.tune(str(log.directory), experiment=TINY, output=tmp_path / "t", trials=10)
    assert more.trials.head(2).drop("error").equals(first.trials.drop("error")) and len(more.trials) == 10
    best = more.trials.to_dicts()[more.best_trial]
    assert best["score"] == more.trials["score"].max() > more.trials["score"][0]
    assert more.best.optimizer["learning_rate"] == pytest.approx(best["optimizer.learning_rate"], rel=0.005)
    assert Experiment.load(tmp_path / "t" / "best.yaml") == more.best
    text = (tmp_path / "t" / "best.yaml").read_text()
    assert f"monitor: both  # trial {more.best_trial} of 10 has {best['score']:.5f} on the validation part; trial 0" in text
    importance = {row["value"]: row["importance"] for row in more.values}
    assert sum(importance.values()) == pytest.approx(1) and importance["optimizer.learning_rate"] > 0
    page = more.report().path.read_text()
    assert f"values of trial {more.best_trial}" in repr(more) and max(map(len, repr(more).splitlines()[:-1])) <= 80
    assert "10 trials" in page and "Score by model.dropout" in page and "nan" not in page
    # Random numbers follow from the seed and the number: the same again elsewhere, and no trial twice.
    again = kd.tune(log, experiment=TINY, output=tmp_path / "again", trials=3)
    assert again.trials.equals(more.trials.head(3))
    values = more.trials.select(row["value"] for row in more.values)
    assert values.n_unique() == 10
    # The first ones are near the experiment, the others wherever the sampler puts them.
    kept = [sum(a == b for a, b in zip(row, values.row(0), strict=True)) for row in values.rows()]
    assert all(0 < count < values.width for count in kept[1:8])


@suite_on("torch")
def test_what_a_tuning_wrote_can_be_verified(log, tmp_path, untrained):
    folder = tmp_path / "t"
    kd.tune(log, experiment=TINY, output=folder, trials=2)
    verified = kd.verify(folder)
    assert verified.kind == "tuning"
    checks = {file.name: file.check for file in verified.files}
    hashed = ("best.yaml", "report.html", "study.json", "trials.csv", "tune.json")
    assert checks == {**dict.fromkeys(hashed, "SHA-256"), "study.db": "is well formed"}
    for name in (*hashed, "study.db"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(bytes([whole[0] ^ 4]) + whole[1:])
        with pytest.raises(ValueError, match=rf"{name} is damaged"):
            kd.verify(folder)
        (folder / name).write_bytes(whole)
    (folder / "study.db").unlink()
    with pytest.raises(ValueError, match="study.db is damaged or missing"):
        kd.verify(folder)


@suite_on("torch")
def test_a_trial_that_fails_is_listed_and_tuning_goes_on(log, tmp_path, untrained):
    untrained.during = {1: raising(MemoryError("no room")), 2: raising(ValueError("training diverged"))}
    found = kd.tune(log, experiment=TINY, output=tmp_path / "t", trials=4)
    assert states(found) == ["complete", "failed", "failed", "complete"]
    assert found.trials["error"].to_list() == [None, "MemoryError: no room", "ValueError: training diverged", None]
    assert "MemoryError: no room" in found.report().path.read_text()


@suite_on("torch")
def test_nothing_but_failures_end_it(log, tmp_path, untrained):
    untrained.during = {number: raising(ValueError("no such argument")) for number in range(9)}
    with pytest.raises(ValueError, match="tune: all of 3 trials failed, the last one with: ValueError: no such argument"):
        kd.tune(log, experiment=TINY, output=tmp_path / "t", trials=9)


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.soak), pytest.param(1, marks=suite_on("torch"))])
def test_an_interrupted_trial_does_not_count_and_the_best_so_far_is_written(log, tmp_path, untrained, number):
    untrained.during = {number: raising(KeyboardInterrupt())}
    with pytest.raises(KeyboardInterrupt):
        kd.tune(log, experiment=TINY, output=tmp_path / "t", trials=3)
    assert (tmp_path / "t" / "best.yaml").exists() == (number == 1)
    found = kd.tune(log, experiment=TINY, output=tmp_path / "t", trials=3)
    assert states(found) == ["lost" if i == number else "complete" for i in range(4)]
    # The experiment itself is tried in any case.
    assert 0.01 in found.trials.filter(found.trials["state"] == "complete")["optimizer.learning_rate"].to_list()


@pytest.mark.slow
@pytest.mark.neutral
def test_what_cannot_be_tuned_is_refused(log, tmp_path, untrained, monkeypatch):
    kd.tune(log, experiment=TINY, output=tmp_path / "t", trials=1)
    with pytest.raises(ValueError, match="is a study of something else: experiment.batch_size is 50 there, 64 now"):
        kd.tune(log, experiment=TINY.override(["batch_size=64"]), output=tmp_path / "t", trials=1)
    with pytest.raises(ValueError, match=r"is a study of something else: fixed"):
        kd.tune(log, experiment=TINY, output=tmp_path / "t", trials=1, fixed=["batch_size"])
    with pytest.raises(FileExistsError, match="has content and is no study of tune"):
        kd.tune(log, experiment=TINY, output=log.directory, trials=1)
    with pytest.raises(ValueError, match=r"no value to tune besides ..batch_size., .model., .optimizer.\]"):
        kd.tune(log, experiment=TINY, trials=1, fixed=["batch_size", "model", "optimizer"])
    with pytest.raises(ValueError, match="time_budget=0 leaves no time"):
        kd.tune(log, time_budget=0)
    with pytest.raises(ValueError, match="either model=… or experiment=…"):
        kd.tune(log, "DCN", experiment=TINY)
    alone = PlantedClickLog(SCHEMA, seed=0).write(tmp_path / "alone", {"train": 30})
    with pytest.raises(ValueError, match="tuning needs rows to train on and a validation part"):
        kd.tune(alone, trials=1)
    monkeypatch.setattr(tuning, "sys", SimpleNamespace(executable="false"))
    with pytest.raises(RuntimeError, match=r"all 2 processes failed, with exit codes \[1, 1\]"):
        kd.tune(log, experiment=TINY, output=tmp_path / "t", trials=9, jobs=2)
    (tmp_path / "t" / "study.db").write_bytes(b"not a database" * 100)
    with pytest.raises(OSError, match=r"study.db cannot be used \(.*not a database"):
        kd.tune(log, experiment=TINY, output=tmp_path / "t", trials=1)


@suite_on("torch")
def test_settings_of_an_experiment_stay_as_they_are(log, tmp_path, untrained):
    TINY.save(tmp_path / "tiny.yaml")
    settings = {"batch_size": 64, "model.deep_mlp": [8]}
    found = kd.tune(log, experiment=tmp_path / "tiny.yaml", settings=settings, trials=2, output=tmp_path / "t")
    assert found.best.batch_size == 64 and found.best.model["deep_mlp"] == [8]
    assert {row["value"] for row in found.values} == {
        "optimizer.learning_rate", "model.embedding_dim", "model.dropout", "model.cross_layers",
    }  # fmt: skip
    own = kd.tune(log, kd.models.DCN, fixed=["model"], trials=1, output=tmp_path / "own")
    assert own.best.model["type"] == "keras_dlrm.models.dcn:DCN"


@pytest.mark.neutral
def test_optuna_is_asked_for_by_its_command(log, monkeypatch):
    monkeypatch.setattr("keras_dlrm.support.installs.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tune needs optuna, which is not installed: pip install 'keras-dlrm\[tune\]'"):
        kd.tune(log)


@pytest.mark.neutral
def test_time_in_which_some_trial_ran_is_used():
    def trial(start, end, state="COMPLETE", **attributes):
        begin = datetime.datetime(2026, 1, 1)
        times = {"datetime_start": start, "datetime_complete": end}
        times = {name: None if at is None else begin + datetime.timedelta(seconds=at) for name, at in times.items()}
        return SimpleNamespace(**times, user_attrs=attributes, state=SimpleNamespace(name=state))

    waiting = trial(None, None, "WAITING")
    assert seconds_used([]) == seconds_used([waiting]) == 0
    # 0 … 10 and 5 … 12 at the same time, 6 … 7 within; 20 … 23 after a pause; one that was lost before its first epoch.
    lost = [trial(20, 999, "FAIL", seconds=3), trial(30, 999, "FAIL")]
    assert seconds_used([trial(5, 12), trial(0, 10), trial(6, 7), *lost, waiting]) == 15
    assert seconds_used([trial(0, 10, "FAIL", error="no room"), trial(40, 41, "PRUNED")]) == 11


@suite_on("torch")
def test_trials_are_pruned_and_the_best_trains_to_its_score(log, tmp_path, monkeypatch):
    import optuna

    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda self: self.number <= 1)
    found = kd.tune(log, experiment=TINY, output=tmp_path / "t", trials=3)
    assert states(found) == ["complete", "pruned", "complete"]
    assert found.trials["epochs"].to_list() == [3, 1, 3]
    assert sorted(path.name for path in (tmp_path / "t").iterdir() if path.name[0] != ".") == [
        "best.yaml", "report.html", "study.db", "study.json", "trials.csv", "tune.json",
    ]  # fmt: skip
    best = found.trials.to_dicts()[found.best_trial]
    trained = train(Experiment.load(tmp_path / "t" / "best.yaml"), log, tmp_path / "run")
    for score in ("auc", "logloss", "ne"):
        assert trained["valid"][score] == pytest.approx(best[score], abs=1e-5)
    assert best["score"] == pytest.approx(best["auc"] - best["ne"]) and best["score"] >= found.trials["score"][0]


@suite_on("torch")
def test_one_trial_is_scored_however_little_time_there_is(log, tmp_path):
    found = kd.tune(log, experiment=TINY, output=tmp_path / "t", time_budget=1e-6)
    assert states(found) == ["complete"] and found.trials["epochs"].to_list() == [1]
    assert found.best == TINY and found.best.reasons["batch_size"] == "small"


PROGRAM = """
import sys
sys.path[:0] = {path!r}
import keras_dlrm as kd
from keras_dlrm.training import tuning_trial
from keras_dlrm.training.experiment import Experiment

plain = tuning_trial._Epochs.on_epoch_end
def waiting(self, epoch, logs=None):
    plain(self, epoch, logs)
    if self.trial.number == 1:
        print("now", flush=True)
        import time; time.sleep(600)
tuning_trial._Epochs.on_epoch_end = waiting
kd.tune({log!r}, experiment=Experiment.from_dict({experiment!r}), output={output!r}, trials=3)
"""


# On the backend that starts soonest.
@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.soak), pytest.param(2, marks=suite_on("torch"))])
def test_a_killed_process_leaves_a_trial_that_counts_as_failed(log, tmp_path, programs, monkeypatch, jobs):
    output, experiment = tmp_path / "t", {**TINY.to_dict(), "epochs": 1}
    program = PROGRAM.format(path=sys.path, log=str(log.directory), experiment=experiment, output=str(output))
    variables = environment(KERAS_BACKEND=keras.backend.backend())
    process = subprocess.Popen([str(programs / "python"), "-c", program], env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "now"
    kill(process)
    process.stdout.close()
    own = SimpleNamespace(executable=str(programs / "python"))
    monkeypatch.setattr(tuning, "sys", own)
    found = kd.tune(log, experiment=Experiment.from_dict(experiment), output=output, trials=4, jobs=jobs)
    assert states(found) == ["complete", "lost", "complete", "complete", "complete"]
    assert yaml.safe_load((output / "best.yaml").read_text()) == found.best.to_dict()
    assert not list(output.glob(".process-*"))
