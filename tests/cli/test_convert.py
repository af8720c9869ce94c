"""`keras-dlrm convert`: another library's checkpoint in, and out again."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_dlrm as kd
from keras_dlrm.cli import group, main
from keras_dlrm.convert import to_torch_dlrm, to_torchrec
from keras_dlrm.export import torch_file
from keras_dlrm.schema.schema import Categorical, Schema

SCHEMA = Schema(["x"], [Categorical("a", 9, hotness=2), Categorical("b", 5)], label="click")


def model(**options: object) -> kd.models.DLRM:
    return kd.models.DLRM(SCHEMA, embedding_dim=4, bottom_mlp=[8, 4], top_mlp=[8, 1], **options)


def run(*args: object) -> dict:
    outcome = CliRunner().invoke(group, [str(a) for a in ("convert", *args, "--json")], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.output.splitlines()[-1])


def same(one: dict, other: dict) -> None:
    assert list(one) == list(other)
    for key, value in one.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(other[key]))


@pytest.mark.parametrize("ending", ["npz", "pt"])
def test_a_torchrec_checkpoint_becomes_a_model_and_comes_back(tmp_path: Path, ending: str) -> None:
    if ending == "pt":
        pytest.importorskip("torch")
    SCHEMA.save(tmp_path / "schema.yaml")
    state = to_torchrec(model(interaction="cross", cross_layers=2, projection_dim=3), "t_")
    torch_file.save(state, tmp_path / f"in.{ending}")
    said = run(tmp_path / f"in.{ending}", "--from", "torchrec", "--schema", tmp_path / "schema.yaml",
               "--output", tmp_path / "m.keras")  # fmt: skip
    assert said["tables"] == {"a": 9, "b": 5} and said["interaction"] == "cross"
    assert keras.saving.load_model(tmp_path / "m.keras").schema == SCHEMA
    run(tmp_path / "m.keras", "--to", "torchrec", "--table-prefix", "t_", "--output", tmp_path / f"out.{ending}")
    same(torch_file.load(tmp_path / f"out.{ending}"), state)
    run(tmp_path / "m.keras", "--to", "torchrec", "--features", "b, a", "--output", tmp_path / "other.npz")
    run(tmp_path / "other.npz", "--from", "torchrec", "--features", "b,a", "--hotness", 2, "--output", tmp_path / "n.keras")
    assert keras.saving.load_model(tmp_path / "n.keras").schema.categorical_names == ("b", "a")


def test_a_checkpoint_of_the_reference_becomes_a_model_and_comes_back(tmp_path: Path) -> None:
    state = to_torch_dlrm(model(self_interaction=True))
    torch_file.save(state, tmp_path / "in.npz")
    run(tmp_path / "in.npz", "--from", "torch_dlrm", "--self-interaction", "--hotness", 2, "--output", tmp_path / "m.keras")
    run(tmp_path / "m.keras", "--to", "torch_dlrm", "--output", tmp_path / "out.npz")
    same(torch_file.load(tmp_path / "out.npz"), state)


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["in.npz"], "give either --from"),
        (["in.npz", "--from", "torchrec", "--to", "torchrec"], "give either --from"),
        (["in.npz", "--from", "torchrec", "--output", "m.h5"], "must end with .keras"),
        (["in.npz", "--from", "torchrec", "--interaction", "cat"], "--interaction is not used with --from torchrec"),
        (["in.npz", "--from", "torch_dlrm", "--features", "a,b"], "--features is not used with --from torch_dlrm"),
        (["m.keras", "--to", "torch_dlrm", "--table-prefix", "t_"], "--table-prefix is not used with --to torch_dlrm"),
        (["m.keras", "--to", "torch_dlrm", "--output", "w.txt"], "the ending says no format"),
        (["none.npz", "--from", "torch_dlrm"], "no file at none.npz"),
        (["none.keras", "--to", "torch_dlrm", "--output", "w.npz"], "no model at none.keras"),
        (["in.npz", "--from", "torchrec"], "is this a TorchRec DLRM's state_dict?"),
        (["in.npz", "--from", "torch_dlrm", "--output", "there.keras"], "there.keras exists"),
        (["in.npz", "--from", "torch_dlrm", "--interaction", "cat"], "top_l.0.weight' has shape (8, 7)"),
    ],
)
def test_bad_input_gives_one_sentence_and_no_file(
    args: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch_file.save(to_torch_dlrm(model()), "in.npz")
    model().save("m.keras")
    Path("there.keras").write_text("x")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["convert", *args, *([] if "--output" in args else ["--output", "out.keras"])])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
