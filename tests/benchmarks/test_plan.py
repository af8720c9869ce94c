"""Predictions alongside measurements: what the benchmark makes of a file of them."""

from __future__ import annotations

import json

import plan
import pytest
from click.testing import CliRunner

from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral


@pytest.mark.slow
def test_measured_rates_stand_beside_predicted_ones(tmp_path):
    measured = {
        "schema": Schema(dense=["x"], categorical=[Categorical("a", 100), Categorical("b", 50)]).to_dict(),
        "embedding_dim": 8,
        "options": {"global_batch": 2048, "optimizer": "sgd"},
        "examples_per_second": {"1": 40_000, "2": 50_000},
    }
    lines, found = plan.beside_measured(measured)
    assert [line["processes"] for line in lines] == [1, 2]
    assert [each.global_batch for each in found.values()] == [2048, 2048]
    assert lines[0]["predicted / measured"] == f"{found[1].examples_per_second / 40_000:.2f}"
    (tmp_path / "m.json").write_text(json.dumps(measured))
    args = ["--measured", str(tmp_path / "m.json"), "--plot", str(tmp_path / "m.png")]
    outcome = CliRunner().invoke(plan.main, args, catch_exceptions=False)
    assert "HugeCTR" in outcome.output and "50,000" in outcome.output
    assert (tmp_path / "m.png").stat().st_size > 10_000
