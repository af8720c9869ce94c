"""The contest on a GPU, as far as it can be tried without one."""

from __future__ import annotations

import click
import contest
import counting
import gpu
import numpy as np
import pytest
from click.testing import CliRunner

pytestmark = pytest.mark.neutral


def test_without_a_gpu_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(gpu, "limits", lambda *_, **__: {"gpu": None, "memory": 0})
    done = CliRunner().invoke(gpu.main, [])
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "no GPU is seen by jax or torch" in done.output
    done = CliRunner().invoke(gpu.main, ["--allow-cpu"])
    assert done.exit_code == 2
    assert "--scale is missing" in done.output


def test_tables_are_scaled_down_until_they_fit():
    rows = (1_000_000, 1000, 3)
    whole = gpu.fitting(rows, 16, 32, "adagrad", 1e9, None)
    assert whole.rows == rows
    need = gpu.needed(whole, 32, "adagrad")
    assert need > 2 * whole.table_bytes
    smaller = gpu.fitting(rows, 16, 32, "adagrad", 0.55 * need, None)
    assert smaller.rows == (500_000, 500, 3)
    assert gpu.needed(smaller, 32, "adagrad") <= 0.55 * need
    with pytest.raises(click.UsageError, match="give a smaller --batch"):
        gpu.fitting(rows, 16, 32, "adagrad", 1000, None)


def test_shares_are_of_the_limits_of_the_backend():
    times = [contest.Times("keras_dlrm, jax, sgd", [10.0]), contest.Times(gpu.PEER, [20.0])]
    found = {"jax": {"bytes/s": 1e9, "FLOP/s": 1e12}, "torch": {"bytes/s": 2e9, "FLOP/s": 1e12}}
    lines = gpu.table(times, 100, {"sgd": counting.Count(flops=1e9, bytes=5e6)}, found).splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert cells[2] == ["keras_dlrm, jax, sgd", "10.00", "10,000", "0.5", "50.0%", "0.10", "10.0%", "5.00", "1.00×"]
    assert cells[3][1:] == ["20.00", "5,000", "0.2", "12.5%", "0.05", "5.0%", "2.50", "2.00×"]


def test_unique_rows_are_counted_by_column_and_batch():
    assert gpu.unique_rows(np.array([[0, 0], [0, 1], [2, 2], [3, 2]]), 2) == 3
