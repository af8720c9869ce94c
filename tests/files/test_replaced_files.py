"""Outputs that are one file take the place of a file of their kind alone: no link, folder, pipe or other file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from helpers.owned import seen

from keras_dlrm.cli import group
from keras_dlrm.export import torch_file
from keras_dlrm.files.durable import check_replaced, whole
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.scoring.output import TableOutput
from keras_dlrm.training.report import learning_curves_png

pytestmark = pytest.mark.neutral


def save_csv(path: Path) -> None:
    with TableOutput(path, {"p": pl.Float32}, overwrite=True) as output:
        output.write(pl.DataFrame({"p": [0.5]}, output.columns))


def replace_model(path: Path) -> None:
    check_replaced("onnx", path, "model.onnx", lambda start: start == b"a model")
    with whole(path) as written:
        written.write_bytes(b"a model")


def plan(path: Path, *arguments: object) -> None:
    schema = path.parent.parent / f"{path.parent.name}.json"
    Schema(dense=["x"], categorical=[Categorical("a", 4)], label="click").save(schema)
    CliRunner().invoke(group, ["plan", "--schema", str(schema), *map(str, arguments), str(path)], catch_exceptions=False)


WRITERS: dict[str, Callable[[Path], None]] = {
    "out.csv": save_csv,
    "out.npz": lambda path: torch_file.save({"a": np.ones(1)}, path, overwrite=True),
    "out.onnx": replace_model,
    "plan.json": lambda path: plan(path, "--world-size", 2, "--output"),
    "plan.png": lambda path: plan(path, "--simulate", "1..2", "--plot"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_replace_files_alone(name: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / name
    for make in (
        lambda: path.symlink_to(victim), lambda: os.mkfifo(path), path.mkdir, lambda: (tmp_path / "x").symlink_to(victim),
    ):  # fmt: skip
        victim.write_text("mine")
        make()
        before = {each: seen(each) for each in tmp_path.iterdir()}
        with contextlib.suppress(OSError):
            WRITERS[name](path)
        assert {each: seen(each) for each in before} == before
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    for left in (f".{name}.0123abcd.writing", f".{name}.partial", f".{name}.writing"):
        (tmp_path / left).symlink_to(victim)
    WRITERS[name](path)
    WRITERS[name](path)
    assert victim.read_text() == "mine" and len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("name", ["out.onnx", "plan.json", "plan.png"])
def test_what_has_no_overwrite_does_not_take_the_place_of_another_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match="of another kind, which is not replaced"):
        WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_a_picture_does_not_write_into_another_name_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    os.link(tmp_path / "mine", tmp_path / "report.png")
    learning_curves_png({"loss": [0.5]}, np.array([0, 1]), np.array([0.2, 0.7]), tmp_path / "report.png")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
