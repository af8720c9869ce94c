"""Runs: the best model is kept, the test part scored once, and a killed run continues as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.children import kill
from helpers.experiments import EXPERIMENT
from helpers.suite import suite_on

from keras_dlrm import data
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.files.ownership import identity, mark
from keras_dlrm.metrics import scores
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run import one_run, train
from keras_dlrm.training.run_files import FILES


@pytest.fixture(scope="module")
def whole(log: data.ClickLog, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return train(EXPERIMENT, log, folder), folder


@suite_on("torch")
def test_result_holds_exact_scores_of_the_saved_model(log: data.ClickLog, whole: tuple[dict, Path]) -> None:
    result, folder = whole
    model = keras.saving.load_model(folder / "model.keras")
    batch, label = log.split("test").arrays()
    found = scores(label, model.predict({k: np.array(v) for k, v in batch.items()}, verbose=0))
    assert result["test"]["auc"] == pytest.approx(found["auc"], abs=1e-7)
    assert result["distance"]["auc"] == pytest.approx(log.best["drawn_auc"] - result["test"]["auc"])
    assert len(result["history"]["loss"]) == result["epochs"] == 3


@suite_on("torch")
def test_best_epoch_is_that_with_the_best_validation_score(whole: tuple[dict, Path]) -> None:
    result, _ = whole
    assert result["best_epoch"] == int(np.argmax(result["history"]["val_auc"])) + 1
    assert result["valid"]["auc"] == pytest.approx(max(result["history"]["val_auc"]), abs=1e-6)


# The suite kills one run on torch, as it does several processes (sharding), and epochs on TensorFlow (test_killed_epochs.py).
@pytest.mark.parametrize("after_batches", [pytest.param(3, marks=pytest.mark.soak), pytest.param(13, marks=suite_on("torch"))])
def test_a_killed_run_continues_with_the_same_losses(
    log: data.ClickLog, whole: tuple[dict, Path], programs: Path, tmp_path: Path, after_batches: int
) -> None:
    """A real process, killed in the middle of an epoch, then a second one that resumes."""
    program = f"""
import os, sys, keras
sys.path[:0] = {sys.path!r}
from keras_dlrm import data
from keras_dlrm.training import callbacks as checkpoint
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run import train
if "--slow" in sys.argv:
    plain, seen = checkpoint.Resume.on_train_batch_end, []
    def counted(self, batch, logs=None):
        plain(self, batch, logs)
        seen.append(batch)
        if len(seen) == {after_batches}:
            print("now", flush=True)
            import time; time.sleep(600)
    checkpoint.Resume.on_train_batch_end = counted
experiment = Experiment.from_dict({EXPERIMENT.to_dict()!r})
train(experiment, data.open({str(log.directory)!r}), {str(tmp_path / "run")!r}, resume=True)
"""
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    command = [programs / "python", "-c", program]
    first = subprocess.Popen([*command, "--slow"], env=environment, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline().strip() == "now"
    kill(first)
    first.stdout.close()
    assert any((tmp_path / "run" / "resume").glob("step_*"))
    assert not (tmp_path / "run" / "result.json").exists()
    subprocess.run(command, env=environment, check=True)
    resumed = json.loads((tmp_path / "run" / "result.json").read_text())
    for name in ("loss", "auc", "logloss", "val_auc", "val_logloss"):
        np.testing.assert_allclose(resumed["history"][name], whole[0]["history"][name], rtol=1e-6, err_msg=name)
    assert resumed["test"] == pytest.approx(whole[0]["test"], rel=1e-6)


@suite_on("torch")
def test_a_finished_run_is_reported_not_repeated(log: data.ClickLog, whole: tuple[dict, Path]) -> None:
    start = time.perf_counter()
    assert train(EXPERIMENT, log, whole[1], resume=True) == whole[0]
    assert time.perf_counter() - start < 30


@pytest.mark.slow
def test_log_loss_and_normalized_entropy_of_training_clip_alike(log: data.ClickLog) -> None:
    model = EXPERIMENT.override(["model.dropout=0", "model.batch_norm=false", "model.top_mlp=[1]"]).build(log.schema)
    model.top_mlp.set_weights([1e4 * w for w in model.top_mlp.get_weights()])  # logits that are certain, and often wrong
    batch, labels = log.split("train").take(slice(0, 256))
    found = model.evaluate(batch, labels, verbose=0, return_dict=True)
    rate = labels.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert found["loss"] > 2 * found["logloss"] > 2
    assert found["ne"] * entropy == pytest.approx(found["logloss"], rel=1e-5)


@suite_on("torch")
def test_the_experiment_of_a_run_holds_the_values_that_were_used(
    log: data.ClickLog, whole: tuple[dict, Path], tmp_path: Path
) -> None:
    written = Experiment.load(whole[1] / "experiment.yaml")
    assert written.model["bottom_mlp"] == [8, 4] and written.model["interaction"] == "dot"
    assert train(written, log, whole[1], resume=True) == whole[0]
    plain = Experiment(model={"type": "DCN", "deep_mlp": [4]})
    model = plain.build(log.schema)
    resolved = plain.resolved(model)
    assert resolved.model["embedding_dim"] == 16 and resolved.model["cross_layers"] == model.get_config()["cross_layers"]
    assert resolved.optimizer == {"name": "adam", "learning_rate": 0.001} and resolved.embedding_optimizer is None
    resolved.save(tmp_path / "experiment.yaml")
    again = Experiment.load(tmp_path / "experiment.yaml")
    assert again == resolved == again.resolved(again.build(log.schema))
    for ours, its in zip(model.get_weights(), again.build(log.schema).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, its)


@suite_on("torch")
def test_a_folder_with_another_run_is_refused(log: data.ClickLog, whole: tuple[dict, Path], tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="has content"):
        train(EXPERIMENT, log, whole[1])
    with pytest.raises(ValueError, match="epochs is 3 there, 5 now, and it has ended"):
        train(EXPERIMENT.override(["epochs=5"]), log, whole[1], resume=True)
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not a run"):
        train(EXPERIMENT, log, tmp_path, overwrite=True)
    assert (tmp_path / "precious.txt").read_text() == "keep"


@suite_on("torch")
def test_a_run_on_other_data_is_not_resumed(log: data.ClickLog, whole: tuple[dict, Path], tmp_path: Path) -> None:
    other = PlantedClickLog(log.schema, seed=2).write(
        tmp_path / "other", rows={"train": 600, "valid": 300, "test": 300}
    )
    with pytest.raises(ValueError, match="other data"):
        train(EXPERIMENT, other, whole[1], resume=True)


@suite_on("torch")
def test_two_runs_do_not_work_in_one_folder(log: data.ClickLog, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("run")
    for one, other in (("run", "run"), ("run", "link"), ("link", "run")):
        with one_run(tmp_path / one), pytest.raises(RuntimeError, match="another run is working in"):
            train(EXPERIMENT, log, tmp_path / other)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@suite_on("torch")
def test_a_folder_that_cannot_be_written_to_is_told_before_training(log: data.ClickLog, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file cannot be written to .*another folder"):
        train(EXPERIMENT, log, tmp_path / "file" / "run")


@suite_on("torch")
def test_a_part_with_one_class_is_refused_before_training(log: data.ClickLog, tmp_path: Path) -> None:
    few = PlantedClickLog(log.schema, seed=1).write(tmp_path / "few", rows={"train": 100, "test": 1})
    with pytest.raises(ValueError, match="test part"):
        train(EXPERIMENT, few, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@suite_on("torch")
def test_training_stops_when_patience_runs_out(log: data.ClickLog, tmp_path: Path) -> None:
    still = EXPERIMENT.override(["optimizer.learning_rate=0.0", "embedding_optimizer.learning_rate=0.0", "patience=1",
                                 "model.batch_norm=false", "lr_factor=1.0"])  # fmt: skip
    result = train(still, log, tmp_path / "run")
    assert (result["epochs"], result["best_epoch"]) == (2, 1)


@suite_on("torch")
@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("optimizer=bogus", "optimizer='bogus' is unknown; use one of ['adagrad', "),
        ("embedding_optimizer=bogus", "embedding_optimizer='bogus' is unknown"),
        ("optimizer.learning_rate=abc", "optimizer.learning_rate='abc' must be a number"),
        ("optimizer.learning_rate={foo: 5}", "optimizer.learning_rate={'foo': 5}: "),
        ("optimizer.beta_1=2", "optimizer 'adam': Adam: beta_1=2"),
        ("optimizer.momentun=0.9", "optimizer 'adam': "),
        ("model.embeding_dim=3", "embeding_dim"),
    ],
)
def test_what_cannot_be_built_leaves_the_earlier_run_and_a_fresh_folder_alone(
    log: data.ClickLog, tmp_path: Path, assignment: str, words: str
) -> None:
    bad = EXPERIMENT.override(["lr_factor=1", assignment])
    (tmp_path / "run").mkdir()
    os.close(mark(tmp_path / "run", identity("run", tmp_path / "run"), FILES))
    for name in ("experiment.yaml", "result.json"):
        (tmp_path / "run" / name).write_text("earlier")
    with pytest.raises(ValueError, match=re.escape(words)):
        train(bad, log, tmp_path / "run", overwrite=True)
    assert {(tmp_path / "run" / name).read_text() for name in ("experiment.yaml", "result.json")} == {"earlier"}
    with pytest.raises(ValueError, match=re.escape(words)):
        train(bad, log, tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()
