"""A run that ended in its first epoch: it goes on, and damaged or other files are named before that."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.experiments import EXPERIMENT
from helpers.suite import suite_on

from keras_dlrm import data
from keras_dlrm.files.checksums import sealed
from keras_dlrm.files.inventory import inventory
from keras_dlrm.training import run
from keras_dlrm.training.callbacks import Resume
from keras_dlrm.training.run import train
from keras_dlrm.training.run_files import write_listing


@pytest.fixture(scope="module")
def interrupted(log: data.ClickLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with bfloat16 tables that ended in its first epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    saves = []
    with pytest.MonkeyPatch.context() as patch:
        save = Resume._save

        def saved(self: Resume, epoch: int, batch: int) -> None:
            save(self, epoch, batch)
            saves.append(batch)
            if len(saves) == 2:
                raise KeyboardInterrupt

        patch.setattr(Resume, "_save", saved)
        with pytest.raises(KeyboardInterrupt):
            train(HALF, log, folder)
    assert not (folder.parent / ".run.running").exists()
    return folder


HALF = EXPERIMENT.override(["epochs=1", "model.embedding_options={table_dtype: bfloat16}"])


@suite_on("torch")
def test_a_run_with_bfloat16_tables_goes_on_for_more_epochs(
    log: data.ClickLog, interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(interrupted, tmp_path / "run")
    for change, words in (
        ("batch_size=32", "batch_size is 64 there, 32 now"),
        ("optimizer.learning_rate=0.5", r"optimizer.learning_rate is 0.01 there, 0.5 now.*more epochs are allowed"),
    ):
        with pytest.raises(ValueError, match=words):
            train(HALF.override([change]), log, tmp_path / "run", resume=True)
    # The model, the predictions and the result are on the disk before the state that could make them again goes.
    events = []
    fsync, clear = os.fsync, Resume.clear
    monkeypatch.setattr(os, "fsync", lambda file: (events.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    monkeypatch.setattr(Resume, "clear", lambda state: (events.append(f"gone {state.directory.name}"), clear(state)))
    result = train(HALF.override(["epochs=2"]), log, tmp_path / "run", resume=True)
    assert result["epochs"] == 2
    flushed = " ".join(events[: events.index("gone resume")])
    assert all(name in flushed for name in ("model.keras", "predictions.npy", "result.json"))
    assert not [path for path in (tmp_path / "run").iterdir() if "writing" in path.name or path.stem == "resume"]


@suite_on("torch")
@pytest.mark.parametrize("file", ["manifest.json", "dense.npz", "tables/a.*/c.0.0"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:-9] + bytes([b[-9] ^ 4]) + b[-8:], lambda b: b""]
)
def test_a_damaged_state_is_named(damage: Any, file: str, log: data.ClickLog, interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path / "run")
    (path,) = (tmp_path / "run" / "resume").glob(f"step_*/{file}")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"resume/step_\d+/?.* is damaged"):
        train(HALF, log, tmp_path / "run", resume=True)


@suite_on("torch")
def test_a_damaged_place_and_a_missing_checkpoint_are_named(log: data.ClickLog, interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path / "run")
    place = tmp_path / "run" / "resume.npz"
    whole = place.read_bytes()
    place.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    with pytest.raises(ValueError, match="resume.npz is damaged"):
        train(HALF, log, tmp_path / "run", resume=True)
    place.write_bytes(whole)
    for step in (tmp_path / "run" / "resume").glob("step_*"):
        shutil.rmtree(step)
    with pytest.raises((ValueError, FileNotFoundError), match="resume"):
        train(HALF, log, tmp_path / "run", resume=True)


@suite_on("torch")
def test_the_state_of_an_earlier_release_is_refused(log: data.ClickLog, interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path / "run")
    np.savez(tmp_path / "run" / "resume.npz", place=np.array(json.dumps({"epoch": 1, "batch": 0, "paths": [], "memories": []})))
    with pytest.raises(ValueError, match="resume.npz was written by an earlier release and is not read by this one"):
        train(HALF, log, tmp_path / "run", resume=True)


@suite_on("torch")
def test_a_damaged_best_model_is_named_before_training_goes_on(
    log: data.ClickLog, interrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(interrupted, tmp_path / "run")
    (tmp_path / "run" / "model.keras").write_bytes(b"PK" + bytes(300))
    with pytest.raises(ValueError, match=r"model\.keras is damaged"):
        train(HALF, log, tmp_path / "run", resume=True)


@suite_on("torch")
@pytest.mark.parametrize("checksums", [True, False])
def test_other_rows_under_the_same_labels_are_other_data(
    checksums: bool, log: data.ClickLog, interrupted: Path, tmp_path: Path
) -> None:
    def stored(directory: Path) -> data.ClickLog:
        manifest = json.loads((directory / "manifest.json").read_text())
        listed = manifest.pop("files", {})
        version = {"files": inventory(directory, listed)} if checksums else {"version": 1}
        (directory / "manifest.json").write_text(json.dumps(sealed({**manifest, **version})))
        return data.open(directory)

    shutil.copytree(log.directory, tmp_path / "log")
    shutil.copytree(interrupted, tmp_path / "run")
    same = stored(tmp_path / "log")
    write_listing(tmp_path / "run", "data.json", run.check_parts(same), ("experiment.yaml",))
    dense = tmp_path / "log" / "valid" / "dense.npy"
    np.save(dense, np.load(dense)[::-1])
    with pytest.raises(ValueError, match="the valid part has other rows now"):
        train(HALF, stored(tmp_path / "log"), tmp_path / "run", resume=True)
