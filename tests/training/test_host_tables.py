"""Runs with host tables: what a kill at any moment leaves continues to the results of a run in memory that nothing stopped."""

import pytest
from helpers.killed_runs import train_and_kill
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.training.experiment import Experiment

SETTINGS = {
    "batch_size": 16, "epochs": 2, "checkpoint_steps": 2, "model.embedding_dim": 4, "model.bottom_mlp": [4],
    "model.top_mlp": [4, 1], "model.dropout": 0.1,
}  # fmt: skip


def hosted(folder, device_rows):
    return {**SETTINGS, "model.embedding_options": {"host": {"path": str(folder), "device_rows": device_rows}}}


@pytest.mark.parametrize("kills", [pytest.param(1, marks=suite_on("torch")), pytest.param(20, marks=pytest.mark.soak)])
def test_a_run_that_is_killed_ends_as_one_in_memory(programs, tmp_path, kills):
    schema = kd.Schema(["x"], [kd.Categorical("c", 500), kd.Categorical("h", 100, hotness=2)])
    log = PlantedClickLog(schema, seed=0).write(tmp_path / "log", {"train": 160 + 96 * kills + 3, "valid": 100, "test": 100})
    whole = kd.train(log, settings={**SETTINGS, "averaging": 0, "checkpoint_steps": 1000}, output=tmp_path / "whole", verbose=False)
    train_and_kill(programs, log, hosted(tmp_path / "spill", 48), tmp_path / "killed", kills)
    assert list((tmp_path / "spill").iterdir()) == []  # of the file of rows nothing is left
    # The cache may be of another size, and elsewhere.
    ended = kd.train(log, settings=hosted(tmp_path / "elsewhere", 60), output=tmp_path / "killed", verbose=False)
    del whole.result["history"]["ids_out_of_range"]
    # Sums of another order: of rows in the cache's slots, and of scores in the smaller batches that it takes. Predictions that are
    # equal but for a last bit can pass each other: a pair or two of AUC's 2,000.
    near = {True: {"abs": 1e-3}, False: {"rel": 1e-6}}
    for mine, theirs in ((ended.result["history"], whole.result["history"]), (ended.result["test"], whole.result["test"])):
        for name, values in theirs.items():
            assert mine[name] == pytest.approx(values, **near["auc" in name]), name


def test_what_a_recipe_averages_gives_way_to_host_tables(tmp_path):
    host = {"model.embedding_options": {"host": kd.HostTables(tmp_path, 100)}}
    schema = kd.Schema(["x"], [kd.Categorical("c", 500)])
    model = {"type": "DLRM", "embedding_dim": 4, "bottom_mlp": [4], "top_mlp": [1]}
    chosen = Experiment(model, averaging=0.999, reasons={"averaging": "better"}).override(host)
    assert chosen.averaging == 0 and "host tables" in chosen.reasons["averaging"]
    assert chosen.build(schema).host_tables
    asked = chosen.override({"averaging": 0.9})
    with pytest.raises(ValueError, match="averaging=0.9: averages are copies of whole tables, and the model has host tables"):
        asked.build(schema)
