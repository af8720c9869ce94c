"""Several processes with sharded tables train as one process does, to the last step: losses, tables, metrics, predictions."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_dlrm.sharding.launch import launch

PROGRAM = Path(__file__).parent / "hybrid_program.py"
MIXED = {"a": "row_wise", "b": "table_wise", "c": "column_wise", "e": "replicate"}
SPLIT = {"collisions": 4, "threshold": 10}
CASES = {
    2: [
        {"kinds": "column_wise", "rule": "Adagrad"},
        {"kinds": MIXED, "rule": "SGD", "weighted": True},
        {"kinds": MIXED, "rule": "Adam"},
        {"kinds": "row_wise", "rule": "RowwiseAdagrad"},
    ],
    4: [
        {"kinds": MIXED, "rule": "Adagrad", "weighted": True},
        {"kinds": "row_wise", "rule": "SGD", "weighted": True, "split": {**SPLIT, "operation": "mult"}},
        {"kinds": "table_wise", "rule": "Adagrad", "split": {**SPLIT, "operation": "concat"}},
    ],
}


def run_alone(cases, tmp_path):
    path = tmp_path / "alone.json"
    cases = [{**case, "kinds": None} for case in cases]
    subprocess.run([sys.executable, str(PROGRAM), json.dumps(cases), str(path)], check=True, capture_output=True)
    return json.loads(path.read_text())


def run_together(cases, processes, tmp_path):
    path = tmp_path / "together.json"
    command = [sys.executable, str(PROGRAM), json.dumps(cases), str(path)]
    assert launch(keras.backend.backend(), processes, command=command) == 0
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("processes", list(CASES))
def test_sharded_training_equals_training_in_one_process(processes, tmp_path):
    cases = CASES[processes]
    together, alone = run_together(cases, processes, tmp_path), run_alone(cases, tmp_path)
    for case, got, expected in zip(cases, together, alone, strict=True):
        # Adam divides by the root of a gradient's square: where that is nearly 0 the order of a sum shows.
        tolerance = 1e-4 if case["rule"] == "Adam" else 1e-5
        np.testing.assert_allclose(got["losses"], expected["losses"], rtol=tolerance, atol=tolerance, err_msg=str(case))
        for name, table in expected["tables"].items():
            np.testing.assert_allclose(got["tables"][name], table, rtol=tolerance, atol=tolerance, err_msg=f"{case} {name}")
        np.testing.assert_allclose(got["prediction"], expected["prediction"], rtol=tolerance, atol=tolerance)
        assert got["evaluation"] == pytest.approx(expected["evaluation"], rel=1e-4, abs=1e-4), case
        assert got["moved"] == pytest.approx(got["predicted"], rel=0.05), case  # as a plan predicts it
