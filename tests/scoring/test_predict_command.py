"""Parts of a log scored by row number, and the command `predict`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers.scored import NEW, expected
from helpers.table_logs import save, spoil

import keras_dlrm as kd
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.scoring import predict_split


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    schema = Schema(dense=["x"], categorical=[Categorical("a", 30), Categorical("b", 10, hotness=2)], label="click")
    folder = tmp_path_factory.mktemp("planted") / "log"
    return PlantedClickLog(schema, seed=1).write(folder, rows={"train": 100, "test": 250}) or kd.data.open(folder)


@pytest.mark.parametrize("batch", [64, 1000])
def test_a_split_is_scored_with_its_row_numbers_and_labels(tmp_path: Path, planted: Any, batch: int) -> None:
    data = kd.data.open(planted.directory)
    net = kd.models.DCNv2(data.schema, 4, deep_mlp=[8])
    done = predict_split(net, data.split("test"), output=tmp_path / "p.parquet", batch_size=batch)
    table = pl.read_parquet(tmp_path / "p.parquet")
    assert done.rows == 250 and table.schema == {"row": pl.Int64, "click": pl.Float32, "probability": pl.Float32}
    assert table["row"].to_list() == list(range(250))
    arrays, label = data.split("test").arrays()
    np.testing.assert_array_equal(table["click"], label)
    np.testing.assert_allclose(table["probability"], net.predict(dict(arrays), verbose=0).ravel(), rtol=1e-5)
    with pytest.raises(ValueError, match="columns 'row', 'click' and 'click'"):
        predict_split(net, data.split("test"), output=tmp_path / "q.parquet", column="click")
    with pytest.raises(ValueError, match="no column 'y', which the model takes"):
        predict_split(kd.models.DCNv2(Schema(["y"]), deep_mlp=[8]), data.split("test"), output=tmp_path / "q.parquet")


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(log: Any, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.mark.slow
@pytest.mark.neutral
def test_the_command_scores_files_in_a_process_of_its_own(
    programs: Path, tmp_path: Path, log: Any, model: Any, saved: Path
) -> None:
    save(spoil(NEW), tmp_path / "rows.csv")
    command = [
        programs / "keras-dlrm", "predict", saved, "--input", tmp_path / "*.csv", "--preprocessor", log.directory,
        "--id-column", "unused", "--on-error", "skip", "--output", tmp_path / "p.parquet", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["rows"] + said["skipped"] == len(spoil(NEW)) and said["rows_per_s"] > 0
    assert f"{said['skipped']} rows were skipped" in done.stderr and "column given" in done.stderr
    table = pl.read_parquet(tmp_path / "p.parquet")
    keep = table["unused"].cast(pl.Int64).is_first_distinct() & (table["unused"].cast(pl.Int64) == 1000)
    np.testing.assert_allclose(table["probability"].filter(keep), expected(log, model, NEW[:1]), rtol=1e-5, atol=1e-7)


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either --input"),
        (["--input", "x.csv", "--data", "d"], "give either --input"),
        (["--input", "x.csv"], "--input needs --preprocessor"),
        (["--input", "x.csv", "--preprocessor", "d", "--no-preprocessor"], "give one of them"),
        (["--input", "x.csv", "--no-preprocessor", "--split", "test"], "--split test needs --data"),
        (["--data", "d", "--id-column", "a"], "--id-column needs --input"),
        (["--data", "d", "--on-error", "skip"], "--on-error skip needs --input"),
        (["--data", "d", "--preprocessor", "d"], "--preprocessor needs --input"),
    ],
)
def test_wrong_options_give_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from keras_dlrm.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["predict", "model.keras", "--output", "p.csv", *arguments])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_the_command_scores_a_split(tmp_path: Path, planted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from click.testing import CliRunner

    from keras_dlrm.cli import group

    data = kd.data.open(planted.directory)
    kd.models.DCNv2(data.schema, 4, deep_mlp=[8]).save(tmp_path / "m.keras")
    arguments = ["predict", tmp_path / "m.keras", "--data", data.directory, "--output", tmp_path / "p.csv", "--json"]
    outcome = CliRunner().invoke(group, [str(a) for a in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0 and json.loads(outcome.output.splitlines()[-1])["rows"] == 250
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "row,click,probability"
