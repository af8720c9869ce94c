"""Models built in the scope of a tf.distribute strategy train as on one device: losses, tables, slots, metrics, predictions."""

import json
import subprocess

import keras
import numpy as np
import pytest
from helpers import mirrored_program as one

import keras_dlrm as kd
from keras_dlrm.sharding.launch import launch

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strategies are TensorFlow's")

MIXED = {"a": "row_wise", "b": "table_wise", "c": "column_wise", "e": "replicate"}


def assert_same(found, expected, where):
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for name in expected:
            assert_same(found[name], expected[name], f"{where}.{name}")
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=where)


def slots_of(model):
    return {str(i): {k: v.numpy() for k, v in slots.items()} for i, slots in enumerate(model.optimizer.rows.held_slots)}


def start(cases, folder):
    """Cases that resume from a checkpoint of one device, and save one."""
    for i, case in enumerate(cases):
        case |= {"restore": str(folder / f"start_{i}"), "save": str(folder / f"end_{i}")}
        model = one.model_of(case)
        model.train_on_batch(*one.data(16)[:2])
        kd.checkpoint.save(model, case["restore"])
    return cases


def check(cases, results):
    """Compare with one device; what was saved, too."""
    for case, found in zip(cases, results, strict=True):
        assert found.pop("copies_differ") == 0, case
        model = one.model_of(case)
        expected = one.found_by(model, {**case, "save": None})
        expected.pop("copies_differ")
        assert_same(found, expected, str(case))
        restored = one.model_of(case)
        restored(one.data(4)[0])
        kd.checkpoint.restore(restored, case["save"])
        assert_same(slots_of(restored), slots_of(model), str(case))


def run_program(programs, cases, tmp_path):
    path = tmp_path / "found.json"
    subprocess.run([programs / "python", one.__file__, str(path), json.dumps(cases)], check=True)
    return json.loads(path.read_text())


def run_workers(programs, cases, tmp_path):
    path = tmp_path / "found.json"
    assert launch("tensorflow", 2, command=[programs / "python", one.__file__, str(path), json.dumps(cases)]) == 0
    return json.loads(path.read_text())


SHARDED = {"rule": "Adagrad", "kinds": MIXED, "weighted": True}
CASES = [
    SHARDED,
    {"rule": "SGD", "kinds": MIXED, "class_weight": True, "on_batch": True},
    {"rule": "RowwiseAdagrad", "kinds": "row_wise", "clipped": True},
]


REFUSED = {
    "called": "tables are sharded over 2 replicas was called as a function",
    "called in scope": "tables are sharded over replicas was called as a function",
    "part": "ValueError: Part: the data are divided already",
    "divided": ": the data are divided already",
    "eager": "ValueError: run_eagerly=True: replicas run one after the other",
    "optimizer": "ValueError: compile: the optimizer was not made in the scope",
    "compiled outside": "ValueError: compile: the optimizer was not made in the scope",
    "metric": "was not made in the scope",
    "accumulated": "ValueError: compile: gradient_accumulation_steps does not work in the scope",
    "planned outside": "ValueError: use: the plan is for world_size=2, but 1 process runs here",
    "saved": "ValueError: Adagrad: a plan shards its slots",
}


@pytest.mark.slow
def test_two_replicas_train_as_one_device_and_refuse_what_does_not_work(programs, tmp_path):
    summed = {"rule": "RowwiseAdagrad", "reduction": "sum", "steps_per_execution": 2, "weighted": True}
    tower = {**SHARDED, "tower": True}
    cases = start([{"replicas": 2, **case} for case in (summed, tower)], tmp_path)
    *results, refused = run_program(programs, [*cases, {"replicas": 2, "refusals": True}], tmp_path)
    check(cases, results)
    for name, message in REFUSED.items():
        assert message in refused[name], f"{name}: {refused[name]}"


@pytest.mark.soak
def test_three_replicas_train_as_one_device(programs, tmp_path):
    cases = start([{"replicas": 3, **case} for case in CASES], tmp_path)
    check(cases, run_program(programs, cases, tmp_path))


WORKERS = [{**SHARDED, "on_batch": True}]
MORE = [
    {"rule": "SGD", "kinds": MIXED, "weighted": True, "on_batch": True},
    {"rule": "RowwiseAdagrad", "kinds": "row_wise", "clipped": True, "class_weight": True},
    {"rule": "Adagrad", "reduction": "sum", "steps_per_execution": 2, "on_batch": True},
    {"rule": "Adagrad", "kinds": "replicate"},
]


@pytest.mark.parametrize("cases", [pytest.param(WORKERS, marks=pytest.mark.slow), pytest.param(MORE, marks=pytest.mark.soak)])
def test_two_workers_train_as_one_device(programs, cases, tmp_path):
    cases = start([dict(case) for case in cases], tmp_path)
    check(cases, run_workers(programs, cases, tmp_path))
