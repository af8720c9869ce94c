"""Checkpoints in one process: what comes back. `tests/sharding/test_trainers.py` has several processes."""

import json

import keras
import numpy as np
import pytest
from helpers.checkpointed import PLANS, SHAPES, batches, build, train
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.sharding.plan import place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "restored", "rule"),
    [("parts", "others", "adam"), ("others", "whole", "sgd")]
    + [
        pytest.param(*ends, rule, marks=pytest.mark.soak)
        for ends, rules in {
            ("whole", "whole"): ("sgd", "adagrad", "adam"), ("parts", "others"): ("sgd", "adagrad"),
            ("others", "whole"): ("adagrad", "adam"), ("whole", "parts"): ("sgd", "adagrad", "adam"),
        }.items()
        for rule in rules
    ],
)  # fmt: skip
def test_training_goes_on_as_if_never_ended_however_tables_are_split(saved, restored, rule, tmp_path):
    data = list(batches(8))
    model = build(rule, plan=PLANS[saved])
    train(model, data[:4])
    kd.checkpoint.save(model, tmp_path, extra={"seen": 4})
    expected = train(model, data[4:])
    again = build(rule, plan=PLANS[restored])
    assert kd.checkpoint.restore(again, tmp_path) == {"step": 4, "extra": {"seen": 4}}
    np.testing.assert_allclose(train(again, data[4:]), expected, rtol=1e-6, atol=1e-7)
    for name, table in model.embedding_tables().items():
        np.testing.assert_allclose(again.embedding_tables()[name], table, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_row_wise_slots_come_back(tmp_path):
    data = list(batches(6))
    model = build(kd.optimizers.RowwiseAdagrad(0.05))
    train(model, data[:3])
    kd.checkpoint.save(model, tmp_path)
    expected = train(model, data[3:])
    again = build(kd.optimizers.RowwiseAdagrad(0.05), plan=place(1, SHAPES, dict.fromkeys(SHAPES, "row_wise")))
    kd.checkpoint.restore(again, tmp_path)
    np.testing.assert_allclose(train(again, data[3:]), expected, rtol=1e-6)


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
    assert kd.checkpoint.restore(build(), tmp_path / "none") is None
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 3; there are \[\]"):
        kd.checkpoint.restore(build(), tmp_path, step=3)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["whole", "parts"])
def test_an_incremental_checkpoint_has_the_touched_rows_alone(plan, tmp_path):
    data = list(batches(9))
    model = build("adagrad", plan=PLANS[plan])
    train(model, data[:3])
    kd.checkpoint.save(model, tmp_path)
    touched = len(np.unique(np.concatenate([x["sparse"][:, 0] for x, _ in data[3:5]])))
    train(model, data[3:5])
    path = kd.checkpoint.save(model, tmp_path, incremental=True)
    parts = json.loads((path / "manifest.json").read_text())["parts"]
    assert sum(part["changes"] for part in parts if part["kind"] == "tables" and part["table"] == "a/b") == touched
    train(model, data[5:6])
    kd.checkpoint.save(model, tmp_path, incremental=True)
    expected = train(model, data[6:])
    # The whole one that both are changes of has stayed alongside the last two.
    assert sorted(p.name[-1] for p in tmp_path.iterdir()) == ["3", "5", "6"]
    again = build("adagrad", plan=PLANS["others"])
    assert kd.checkpoint.restore(again, tmp_path)["step"] == 6
    np.testing.assert_allclose(train(again, data[6:]), expected, rtol=1e-6, atol=1e-7)
    path = kd.checkpoint.save(again, tmp_path, incremental=True)
    parts = json.loads((path / "manifest.json").read_text())["parts"]
    assert not any("changes" in part for part in parts if part["table"] == "a/b")  # it is split otherwise


@pytest.mark.slow
def test_gradients_that_are_being_accumulated_come_back(tmp_path):
    def make():
        model = build(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3))
        model.make_room(data[0][0])
        return model

    data = list(batches(8))
    model = make()
    train(model, data[:4])  # one update, and a third of the next
    kd.checkpoint.save(model, tmp_path)
    expected = train(model, data[4:])
    again = make()
    kd.checkpoint.restore(again, tmp_path)
    np.testing.assert_allclose(train(again, data[4:]), expected, rtol=1e-6)
    for name, table in model.embedding_tables().items():
        np.testing.assert_allclose(again.embedding_tables()[name], table, rtol=1e-5, atol=1e-7)


@suite_on("torch")
@pytest.mark.parametrize("table", ["x" * 250, "列" * 60], ids=["long", "of many bytes"])
def test_tables_of_long_names_are_saved(table, tmp_path):
    schema = kd.Schema(categorical=[kd.Categorical(f"{i}", 7, table=f"{table}{i}") for i in range(2)])
    model = kd.models.DLRM(schema, 4, top_mlp=[1], seed=0)
    kd.checkpoint.save(model, tmp_path, step=1)
    other = kd.models.DLRM(schema, 4, top_mlp=[1], seed=1)
    kd.checkpoint.restore(other, tmp_path)
    for name, rows in model.embedding_tables().items():
        np.testing.assert_array_equal(other.embedding_tables()[name], rows)
    assert kd.checkpoint.verify(tmp_path) == [1]
