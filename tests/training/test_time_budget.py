"""Time budgets: a run ends within an epoch, with a scored model, and time before a resumed checkpoint counts."""

from types import SimpleNamespace

import keras
import pytest
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.training import callbacks
from keras_dlrm.training.callbacks import Resume, TimeBudget
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run import train

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 20)])
TINY = Experiment(model={"type": "DCN", "embedding_dim": 2, "deep_mlp": [4], "cross_layers": 1}, batch_size=50, epochs=3)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    rows = {"train": 300, "valid": 200, "test": 200}
    return PlantedClickLog(SCHEMA, seed=0).write(tmp_path_factory.mktemp("log") / "log", rows)


@pytest.mark.neutral
def test_seconds_before_and_after_a_checkpoint_count(monkeypatch):
    now = 100.0
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now)
    model = SimpleNamespace(stop_training=False)
    budget, endless = TimeBudget(10.0), TimeBudget(0.0)
    for each in (budget, endless):
        each.set_model(model)
        each.restore({"seconds": 7.0})
        each.on_train_begin()
    now = 102.0
    budget.on_train_batch_end(0)
    assert not model.stop_training and budget.state() == {"seconds": 9.0}
    now = 103.0
    endless.on_train_batch_end(0)
    assert not model.stop_training
    budget.on_train_batch_end(1)
    assert model.stop_training and budget.used_up
    budget.on_train_end()
    now = 200.0  # the test part is scored
    assert budget.seconds == 10.0


@suite_on("torch")
def test_a_budget_that_ends_in_the_first_batch_leaves_a_scored_model(log, tmp_path):
    result = train(TINY.override(["time_budget=1e-9", "patience=0"]), log, tmp_path / "run")
    assert (result["epochs"], result["best_epoch"], result["ended_by"]) == (1, 1, "time budget")
    assert result["history"]["val_auc"] == [pytest.approx(result["valid"]["auc"], abs=1e-9)]
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert int(model.optimizer.dense.iterations) == 1
    assert "ended by its time budget" in (tmp_path / "run" / "report.html").read_text()


@suite_on("torch")
def test_a_resumed_run_with_no_time_left_is_scored_and_not_trained(log, tmp_path, monkeypatch):
    save = Resume._save

    def stopping(self, epoch, batch):
        save(self, epoch, batch)
        raise KeyboardInterrupt

    monkeypatch.setattr(Resume, "_save", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, log, tmp_path / "run")
    monkeypatch.undo()
    result = train(TINY.override(["time_budget=1e-9"]), log, tmp_path / "run", resume=True)
    assert (result["epochs"], result["ended_by"]) == (1, "time budget")
    with pytest.raises(ValueError, match="time_budget is 1e-09 there, 60.0 now, and it has ended"):
        train(TINY.override(["time_budget=60"]), log, tmp_path / "run", resume=True)
