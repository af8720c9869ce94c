"""Several processes with sharded tables train as one process does, to the last step: losses, tables, metrics, predictions."""

import json

import keras
import numpy as np
import pytest
from helpers import hybrid_program
from helpers.suite import suite_on

from keras_dlrm.sharding.launch import launch

MIXED = {"a": "row_wise", "b": "table_wise", "c": "column_wise", "e": "replicate"}
OTHERS = {"a": "column_wise", "b": "replicate", "c": "table_wise", "e": "column_wise"}
SPLIT = {"collisions": 4, "threshold": 10}
CASES = [
    {"kinds": OTHERS, "rule": "SGD", "weighted": True, "uneven": True},
    {"kinds": MIXED, "rule": "Adam", "uneven": True},
    {"kinds": "row_wise", "rule": "RowwiseAdagrad", "weighted": True, "split": {**SPLIT, "operation": "mult"}},
    {"kinds": "table_wise", "rule": "Adagrad", "split": {**SPLIT, "operation": "concat"}},
    {"kinds": MIXED, "rule": "SGD", "batch_norm": True, "uneven": True},
]
# Negatives of each process's rows are those of all processes.
TOWERS = {"user": ["b", "d", "e", "y"], "item": ["a", "c", "x"], "user_mlp": [6], "output_dim": 4, "temperature": 0.2}
IN_BATCH = [
    {"kinds": MIXED, "rule": "SGD", "uneven": True, "model": "TwoTower", "arguments": TOWERS, "in_batch": options}
    for options in ({"uniform_negatives": 6}, {"log_q": None, "accidental_hits": False, "hard_negatives": 9})
]
CASES += IN_BATCH
OPEN = {} if keras.backend.backend() == "jax" else {"rule": "Adagrad", "open": {"rows": 32}}  # which JAX refuses
CASES += [{"kinds": MIXED, "uneven": True, **OPEN}] if OPEN else []
# Compiled twice each, the others are for `make soak`. Uniform negatives have no ids of open vocabularies.
COMPILED = CASES if keras.backend.backend() == "torch" else [CASES[1], CASES[4], {**IN_BATCH[1 if OPEN else 0], **OPEN}]
MORE = [
    {"kinds": "row_wise", "rule": "RowwiseAdagrad"},
    {"kinds": "row_wise", "rule": "SGD", "weighted": True, "split": {**SPLIT, "operation": "mult"}},
    {"kinds": MIXED, "rule": "Adagrad", "weighted": True},
]
DEEP = {"deep_mlp": [16]}
MODELS = [
    {"kinds": MIXED, "rule": "SGD", "model": model, "arguments": arguments}
    for model, arguments in {
        "DCNv2": {**DEEP, "cross_layers": 1}, "GDCN": {**DEEP, "cross_layers": 1}, "FM": {}, "DeepFM": DEEP,
        "XDeepFM": {**DEEP, "maps": [3]}, "AutoInt": {**DEEP, "attention_layers": 1, "head_dim": 4},
        "MaskNet": {**DEEP, "blocks": 1, "block_units": 8}, "FinalMLP": {**DEEP, "gate_mlp": [4]},
        "DCNv3": {"exponential_layers": 1, "linear_layers": 1},
        "Wukong": {**DEEP, "wukong_layers": 1, "fm_vectors": 3, "linear_vectors": 2, "rank": 2, "block_mlp": []},
        "RankMixer": {"tokens": 2, "token_dim": 8, "blocks": 1},
    }.items()
] + [
    {"kinds": MIXED, "rule": "SGD", "uneven": True, "labels": ["a click", "like"], "model": "DCNv2",
     "arguments": {**DEEP, "cross_layers": 1, "tasks": {"type": "MMoE", "experts": 2, "expert_mlp": [4]}}},
]  # fmt: skip


def run_alone(cases):
    """Findings of one process in each case."""
    return [hybrid_program.run({**case, "kinds": None}) for case in cases]


def run_together(programs, processes, folder, cases):
    """Findings of the processes in each case."""
    path = folder / "together.json"
    command = [programs / "python", hybrid_program.__file__, json.dumps(cases), str(path)]
    assert launch(keras.backend.backend(), processes, command=command) == 0
    return json.loads(path.read_text())


def assert_same(cases, together, alone):
    """Losses, tables, predictions and metrics agree, and what moved is what a plan predicts."""
    for case, got, expected in zip(cases, together, alone, strict=True):
        if case.get("batch_norm"):  # each part has its own mean
            continue
        # Adam divides by the root of a gradient's square: where that is nearly 0 the order of a sum shows.
        tolerance = 1e-4 if case["rule"] == "Adam" else 1e-5
        np.testing.assert_allclose(got["losses"], expected["losses"], rtol=tolerance, atol=tolerance, err_msg=str(case))
        for name, table in expected["tables"].items():
            np.testing.assert_allclose(got["tables"][name], table, rtol=tolerance, atol=tolerance, err_msg=f"{case} {name}")
        np.testing.assert_allclose(got["prediction"], expected["prediction"], rtol=tolerance, atol=tolerance)
        if case.get("uneven"):
            assert got["evaluation"] == pytest.approx(expected["evaluation"], rel=1e-4, abs=1e-4), case
        # A plan knows nothing of items' vectors, nor of the ids of open vocabularies, which all processes tell each other.
        if "in_batch" not in case and "open" not in case:
            assert got["moved"] == pytest.approx(got["predicted"], rel=0.05), case


def assert_moving_means_are_those_of_all_rows(together, alone):
    """In every process, with batch normalization."""
    first, *later = together["moving"]
    # Before any weight has changed, the first layer's mean over all rows is the mean of its means over parts.
    assert np.asarray(first[0]).shape == (2, 16)
    np.testing.assert_allclose(first[0], np.repeat(alone["moving"][0][0], 2, axis=0), rtol=1e-5, atol=1e-6)
    for step in (first, *later):
        for each in step:
            np.testing.assert_array_equal(each[0], each[1])
    assert np.abs(np.asarray(later[-1][0]) - first[0]).max() > 1e-3


@pytest.mark.slow
def test_sharded_training_equals_training_in_one_process(programs, tmp_path):
    alone, two = run_alone(COMPILED), run_together(programs, 2, tmp_path, COMPILED)
    assert_same(COMPILED, two, alone)
    normalized = next(i for i, case in enumerate(COMPILED) if case.get("batch_norm"))
    assert_moving_means_are_those_of_all_rows(two[normalized], alone[normalized])


@suite_on("torch")
def test_every_model_trains_with_sharded_tables_as_in_one_process(programs, tmp_path):
    assert_same(MODELS, run_together(programs, 2, tmp_path, MODELS), run_alone(MODELS))


@pytest.mark.soak
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_trains_as_one_in_more_cases(programs, processes, tmp_path):
    cases = CASES + MORE
    assert_same(cases, run_together(programs, processes, tmp_path, cases), run_alone(cases))


START = """
import sys, keras
import numpy as np
import keras_dlrm as kd
from keras_dlrm.sharding import everyone
kd.sharding.start()
rank, jax = kd.sharding.process_rank(), keras.backend.backend() == "jax"
batch = {"dense": np.ones((6, 1), "float32"), "sparse": np.ones((6, 3), "int32")}
label = np.ones((6, 1), "float32")

def build(optimizer="adagrad", kind="row_wise", combiner="sum", seed=None, **options):
    columns = [kd.Categorical("a", 50), kd.Categorical("b", 7, hotness=2, combiner=combiner)]
    schema = kd.Schema(dense=["x"], categorical=columns)
    with kd.sharding.use(kd.plan(schema, 2, 4, constraints={"a": kind, "b": "replicate"}, machine="loopback")):
        model = kd.models.DLRM(schema, 4, bottom_mlp=[8, 4], top_mlp=[8, 1], seed=seed, **options)
    model.compile(optimizer() if callable(optimizer) else optimizer, embedding_optimizer="adagrad")
    return model

def refused(words, train):
    try:
        train()
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)

class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 1 + rank
    def __getitem__(self, index):
        return batch, label

refused("plan.tables.a.sharding is", lambda: build(kind="column_wise" if rank else "row_wise"))
refused('activation is "relu" in process 0 and "tanh" in process 1', lambda: build(activation="tanh" if rank else "relu"))
refused('combiner is not set in process 0 and "mean" in', lambda: build(combiner="mean" if rank else "sum"))
refused("optimizer.momentum is", lambda: build(lambda: keras.optimizers.SGD(0.1, momentum=0.9 if rank else 0.0)))
refused("learning_rate is", lambda: build(lambda: kd.optimizers.Adagrad(0.5 if rank else 0.05)))
if not jax:  # which refuses arrays that are not everywhere the same itself
    refused("tables_4_replicated is not the same in all processes", lambda: build(seed=rank).train_on_batch(batch, label))
model = build()
refused("data.batches is 1 in process 0 and 2 in process 1", lambda: model.fit(kd.sharding.Part(Batches()), verbose=0))
losses = [float(model.train_on_batch(batch, label)) for _ in range(3)]
assert all(each == losses for each in everyone.values(losses)), losses
if rank == 1:
    raise ValueError("row 7 of day_3.csv is bad")
everyone.wait()
"""


@pytest.mark.slow
def test_processes_that_are_not_told_the_same_are_refused_and_the_one_that_fails_is_named(programs, capfd):
    assert launch(keras.backend.backend(), 2, command=[programs / "python", "-c", START]) == 1
    assert "process 1 of 2 ended with exit code 1 in step 0: ValueError: row 7 of day_3.csv is bad" in capfd.readouterr().err
