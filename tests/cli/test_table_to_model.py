"""A table to a model to scores on the command line, without a file written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.cli import main

SMALL = ["--epochs", "1", "--set", "model.bottom_mlp=[8,8]", "--set", "model.top_mlp=[8,1]"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r = np.random.default_rng(0)
    log = {"price": r.exponential(9, 600), "user": [f"u{i}" for i in r.integers(0, 20, 600)], "click": r.integers(0, 2, 600)}
    folder = tmp_path_factory.mktemp("table")
    pl.DataFrame(log)[:400].write_parquet(folder / "day-1.parquet")
    pl.DataFrame(log)[400:].write_parquet(folder / "day-2.parquet")
    return folder


@suite_on("torch")
def test_a_folder_of_tables_becomes_a_run_that_scores_files(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "run")
    main(["train", str(table), "--label", "click", "--output", output, *SMALL])
    shown = capsys.readouterr()
    assert "dense columns: price" in shown.err and "cut at random" in shown.err and "test" in shown.out
    run = kd.Run(output)
    assert sum(run.result["rows"].values()) == 600
    main(["predict", output, "--input", str(table / "day-1.parquet"), "--output", str(tmp_path / "p.parquet")])
    scored = pl.read_parquet(tmp_path / "p.parquet")["probability"].to_numpy()
    np.testing.assert_array_equal(run.predict(table / "day-1.parquet"), scored)
    main(["evaluate", output, "--data", str(run.log.directory), "--split", "valid"])
    assert f"{run.result['valid']['auc']:.4f}" in capsys.readouterr().out
    # Again: refused, resumed, and another run on the same log in its place.
    with pytest.raises(SystemExit):
        main(["train", str(table), "--label", "click", "--output", output, *SMALL])
    assert "has content; resume its run with --resume" in capsys.readouterr().err
    main(["train", str(table), "--label", "click", "--output", output, *SMALL, "--resume"])
    main(["train", str(table), "--label", "click", "--output", output, *SMALL, "--seed", "5", "--overwrite"])
    assert kd.Run(output).result["seed"] == 5 and kd.Run(output).log.manifest == run.log.manifest


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["FOLDER"], "give files with --label or --schema, or --data"),
        (["--label", "click"], "give files with --label or --schema, or --data"),
        (["FOLDER", "--label", "click", "--data", "log"], "give files with --label or --schema, or --data"),
        (["FOLDER", "--label", "clicked"], "has no column 'clicked'"),
        (["FOLDER/day-3.parquet", "--label", "click"], "no such file"),
        (["FOLDER", "--label", "click", "--set", "epohcs=3"], "unknown key 'epohcs'"),
        (["FOLDER", "--label", "click", "--model", "GBDT"], "--model 'GBDT' is unknown"),
    ],
)
def test_what_is_wrong_with_a_table_or_an_option_is_told_in_a_sentence(
    arguments: list[str], said: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", *(word.replace("FOLDER", str(table)) for word in arguments), "--output", str(tmp_path / "run")])
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1 and list(tmp_path.iterdir()) == []
