"""Folders that killed processes left go with the next run; those of others and of working runs stay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from helpers.owned import trained

import keras_dlrm as kd
from keras_dlrm.files import ownership
from keras_dlrm.files.durable import clean, workspace
from keras_dlrm.files.ownership import MARKER, identity, mark
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.training import run
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run_files import FILES

pytestmark = pytest.mark.neutral


@pytest.mark.parametrize(
    "make", [os.mkfifo, Path.touch, lambda path: path.symlink_to(os.devnull), lambda path: path.symlink_to("/")]
)
@pytest.mark.parametrize("resume", [True, False])
def test_a_run_is_refused_where_no_folder_of_its_own_can_be(make: Any, resume: bool, tmp_path: Path) -> None:
    make(tmp_path / "run")
    with pytest.raises(FileExistsError, match="give the name of a folder of its own"):
        run.train(Experiment(), None, tmp_path / "run", resume=resume, overwrite=not resume)


def test_an_experiment_in_a_folder_that_is_not_ours_is_no_run(tmp_path: Path) -> None:
    Experiment().save(tmp_path / "experiment.yaml")
    with pytest.raises(ValueError, match="is not a run"):
        run._check_same_run(Experiment(), {"sha256": "", "rows": {}}, tmp_path)


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / ".writing-0123456789ab"
    left.mkdir()
    os.close(mark(left, identity("workspace", tmp_path / "out")))
    (left / "deep").mkdir()
    (left / "deep" / "model").write_text("half")
    with workspace(tmp_path / "other"):
        assert left.exists()
    with workspace(tmp_path / "out") as folder:
        assert not left.exists() and folder.exists()
        clean(tmp_path / "out")
        assert folder.exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [True, False])
def test_what_was_left_before_its_marker_goes_too(part: bool, tmp_path: Path) -> None:
    left, foreign = tmp_path / ".writing-0123456789ab", tmp_path / ".writing-ba9876543210"
    for folder in (left, foreign, tmp_path / ".step_0000000002.partial", tmp_path / "run"):
        folder.mkdir()
        if part:
            (folder / f"{MARKER}.0123abcd").write_text("{")
    (foreign / "mine").write_text("mine")
    with workspace(tmp_path / "out"):
        assert not left.exists()
    assert (foreign / "mine").read_text() == "mine"
    model = kd.models.DLRM(Schema(categorical=[Categorical("a", 5), Categorical("b", 5)]), 2, top_mlp=[1], seed=0)
    kd.checkpoint.save(model, tmp_path, step=2)
    trained(tmp_path / "run")
    trained(tmp_path / "run")  # over the first one, which has a marker


def test_a_folder_that_another_process_takes_for_a_left_one_is_made_again(tmp_path: Path, monkeypatch: Any) -> None:
    first = iter([True])

    def taken(folder: Path, *args: Any) -> int:
        if next(first, False):
            ownership.remove_unmarked(folder)
        return mark(folder, *args)

    monkeypatch.setattr(ownership, "mark", taken)
    with workspace(tmp_path / "out") as folder:
        assert (folder / MARKER).is_file()
    assert not list(tmp_path.iterdir())


def test_a_run_that_works_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    held = mark(tmp_path / "run", identity("run", tmp_path / "run"), FILES)
    with pytest.raises(RuntimeError, match="another process works in it"):
        trained(tmp_path / "run")
    os.close(held)
    trained(tmp_path / "run")
