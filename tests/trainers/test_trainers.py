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


@pytest.mark.slow
@pytest.mark.neutral
@pytest.mark.parametrize("program", ["criteo.py", "tables.py"])
def test_help_has_examples(program: str) -> None:
    shown = start(program, "--help")
    assert shown.returncode == 0 and f"python trainers/{program}" in shown.stdout
