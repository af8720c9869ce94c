"""The training programs as a user starts them: real processes, from raw files to scores, twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import polars as pl
import pytest
from helpers.children import environment
from helpers.suite import suite_on

ROOT = Path(__file__).parents[2]
SMALL = ["--set", "model.top_mlp=[8,1]", "--set", "model.embedding_dim=4", "--set", "batch_size=64"]


def start(program: str, *args: object, python: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program by a `python` that has a backend already, or by the interpreter, whose backend `--backend` alone decides."""
    command = [python or sys.executable, str(ROOT / "trainers" / program), *map(str, args)]
    env = environment() if python else environment(KERAS_BACKEND="")
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, env=env)


def criteo_log(path: Path, rows: int) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(rows):
        counts = [str(n) for n in rng.integers(0, 50, 13)]
        values = [f"{n:08x}" for n in rng.integers(0, 20, 26)]
        lines.append("\t".join([str(rng.integers(0, 2)), *counts, *values]))
    path.write_text("\n".join(lines) + "\n")
    return path


@suite_on("torch")
def test_criteo_trains_once_goes_on_and_refuses_other_inputs(programs: Path, tmp_path: Path) -> None:
    raw, out = criteo_log(tmp_path / "train.txt", 700), tmp_path / "out"
    args = [raw, "--output", out, *SMALL, "--set", "model.bottom_mlp=[8,4]"]
    python = programs / "python"
    first = start("criteo.py", *args, "--backend", keras.backend.backend(), "--seed", 3, "--tensorboard")
    assert first.returncode == 0, first.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["backend"] == keras.backend.backend() and result["seed"] == 3
    assert any((out / "tensorboard").rglob("events*"))
    again = start("criteo.py", *args, "--seed", 3, python=python)
    assert again.returncode == 0 and json.loads((out / "result.json").read_text()) == result
    criteo_log(raw, 710)
    other = start("criteo.py", *args, "--seed", 3, python=python)
    assert other.returncode != 0 and "made from other inputs" in other.stderr


@suite_on("torch")
def test_tables_train_another_model_in_mixed_precision(programs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"click": rng.integers(0, 2, 400), "city": rng.integers(0, 9, 400), "price": rng.random(400)})
    frame.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "schema.yaml").write_text("dense: [price]\ncategorical: [city]\nlabel: click\n")
    args = ["--schema", tmp_path / "schema.yaml", "--train", tmp_path / "*.parquet", "--fractions", 0.6, 0.2, 0.2]
    done = start(
        "tables.py", *args, "--output", tmp_path / "out", "--model", "DCN", "--set", "model.deep_mlp=[8]",
        "--batch-size", 64, "--optimizer", "adagrad", "--mixed-precision", python=programs / "python",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "DCN" in done.stdout and (tmp_path / "out" / "report.png").exists()
    args[-3:] = [0.8, 0.1, 0.1, "--output", tmp_path / "out", "--model", "DCN"]
    other = start("tables.py", *args, python=programs / "python")
    assert other.returncode != 0 and "with other settings" in other.stderr


@suite_on("torch")
def test_two_stage_from_a_log_to_a_saved_model_that_recommends(programs: Path, tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    films = [f"film {i}" for i in range(20)]
    log = {"user": [f"u{i}" for i in rng.integers(0, 9, 600)], "film": rng.choice(films, 600), "price": rng.random(600)}
    pl.DataFrame({**log, "other": rng.random(600), "click": rng.integers(0, 2, 600)}).write_parquet(tmp_path / "log.parquet")
    pl.DataFrame({"film": films[:8], "price": rng.random(8)}).write_parquet(tmp_path / "films.parquet")
    args = [
        "--label", "click", "--train", tmp_path / "log.parquet", "--user", "user", "--item", "film", "--item", "price",
        "--catalog", tmp_path / "films.parquet", "--output", tmp_path / "out", "--k", 4, "--epochs", 1, *SMALL,
    ]  # fmt: skip
    done = start("two_stage.py", *args, python=programs / "python")
    assert done.returncode == 0, done.stderr
    served = tmp_path / "out" / "recommender"
    assert f"keras-dlrm serve {served}" in done.stdout and "Epoch" in done.stdout
    request = json.loads(done.stdout.rpartition(" -d ")[2].strip()[1:-1])["inputs"]
    assert set(request) == {"user", "exclude"} and request["user"][0] in log["user"]
    recommend = tf.saved_model.load(served / "1").signatures["recommend"]
    answer = recommend(user=tf.constant(request["user"]), exclude=tf.constant([films[:2]]))
    ids = [value.decode() for value in answer["ids"].numpy()[0]]
    assert len(set(ids)) == 4 and set(ids) <= set(films[2:8])
    other = start("two_stage.py", *args, "--seed", 7, python=programs / "python")
    assert other.returncode == 2 and "is a two-tower model of other options" in other.stderr
    pl.DataFrame({"film": [None], "price": [0.5]}, schema_overrides={"film": pl.String}).write_parquet(tmp_path / "films.parquet")
    empty = start("two_stage.py", *args, python=programs / "python")
    assert empty.returncode == 2 and "the catalog has no item" in empty.stderr and "Epoch" not in empty.stdout
    wrong = start("two_stage.py", *args, "--user", "nobody", python=programs / "python")
    assert wrong.returncode == 2 and "--user, --item: ['nobody'] are no columns of the schema" in wrong.stderr


@pytest.mark.slow
@pytest.mark.neutral
@pytest.mark.parametrize("program", ["criteo.py", "tables.py", "two_stage.py"])
def test_help_has_examples(program: str) -> None:
    shown = start(program, "--help")
    assert shown.returncode == 0 and f"python trainers/{program}" in shown.stdout
