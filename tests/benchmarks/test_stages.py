"""The profile of a training step by stage: what is counted, and that it runs."""

from __future__ import annotations

import functools

import counting
import keras
import limits
import numpy as np
import pytest
import staged_step
import stages
import stages_plot
import workload
from keras import ops

from keras_dlrm.models import DLRM
from keras_dlrm.models.presets import PRESETS
from keras_dlrm.schema.schema import Categorical, Schema

# Three vectors of width 2: 2 + 3 inputs of the top MLP. Dense layers 3 → 4 → 2 and 5 → 5 → 1: 62 weights.
SMALL = workload.Shape((10, 4), 2, 3, (4, 2), (5, 1))
CROSS = workload.Shape((10, 4), 2, 3, (4, 2), (5, 1), (3, 1), "cross", 2, 3)


def test_operations_and_bytes_of_a_small_shape_are_those_counted_by_hand():
    found = counting.stages(SMALL, batch=8, unique=6)
    # Per layer: input, weights and output forward; backward output and its gradient, input, weights, then gradients.
    layer_1 = (24 + 16 + 32) + (32 + 32 + 24) + 16
    layer_2 = (32 + 10 + 16) + (16 + 16 + 32 + 10) + (32 + 10)
    layer_3 = (40 + 30 + 40) + (40 + 40 + 40 + 30) + (40 + 30)
    layer_4 = (40 + 6 + 8) + (8 + 8 + 40 + 6) + (40 + 6)
    assert {name: (count.flops, count.bytes / 4) for name, count in found.items()} == {
        "input": (0, 2 * (24 + 16 + 8)),
        # 16 ids for 6 rows of width 2: 10 rows of gradients are added.
        "lookup": (10 * 2, 16 + 2 * 16 + 3 * 12 + 2 * 32),
        # 3 × 3 products of width 2 forward, as many backward.
        "interaction": (8 * (2 * 9 * 2 + 2 * 9 * 2), (48 + 40) + (40 + 48 + 48)),
        "MLPs": (8 * 2 * (2 * 12 + 3 * 8 + 3 * 25 + 3 * 5), layer_1 + layer_2 + layer_3 + layer_4),
        "loss": (15 * 8, 4 * 8),
        "dense update": (2 * 62, 3 * 62),
        "row update": (2 * 12, 6 + 3 * 12),
    }


@pytest.mark.parametrize(
    ("rule", "flops", "words"),
    [
        ("adagrad", 7 * 12, 6 + 3 * 12 + 2 * 12),
        ("rowwise_adagrad", 5 * 12 + 3 * 6, 6 + 3 * 12 + 2 * 6),
        ("adam", 12 * 12, 6 + 3 * 12 + 4 * 12),
    ],
)
def test_a_rule_reads_and_writes_its_slots(rule, flops, words):
    assert counting.stages(SMALL, 8, 6, rule=rule)["row update"] == counting.Count(flops, 4 * words)


def test_activations_in_bfloat16_are_half_the_bytes_and_weights_are_not():
    assert counting.dense_layer(8, 5, 4, 2) == counting.Count(2 * 3 * 8 * 20, 2 * (3 * 40 + 3 * 32) + 4 * 3 * 24)


def test_bags_are_summed_and_crosses_multiply():
    found = counting.stages(CROSS, batch=8, unique=6)
    assert found["lookup"].flops == (8 * 2 * 2) + (32 - 6) * 2  # two more ids an example to add, width 2
    assert found["interaction"].flops == 2 * (3 * 2 * 8 * 2 * 6 * 3 + 8 * 8 * 6)  # 6 → 3 → 6, twice


@pytest.mark.parametrize("shape", [SMALL, CROSS], ids=["dot", "cross"])
def test_weights_are_those_of_the_model(shape):
    schema = Schema(dense=["a", "b", "c"], categorical=[Categorical("d", 10), Categorical("e", 4)])
    crossed = {"cross_layers": 2, "projection_dim": 3} if shape.interaction == "cross" else {}
    model = DLRM(schema, 2, shape.bottom, shape.top, shape.interaction, **crossed)
    assert model.count_params() == shape.weights + 2 * 14


def test_gradients_are_for_the_tensors_that_were_marked():
    x, y = ops.convert_to_tensor([1.0, 2.0]), ops.convert_to_tensor([3.0, 4.0])

    def function(leaf):
        a, b = leaf(x), leaf(y)
        return (a * b, a * a), b

    upstream = (ops.convert_to_tensor([1.0, 10.0]), ops.convert_to_tensor([1.0, 1.0]))
    out, aux, gradients = staged_step.vjp(function, upstream)
    np.testing.assert_array_equal(ops.convert_to_numpy(out[1]), [1, 4])
    np.testing.assert_array_equal(ops.convert_to_numpy(aux), [3, 4])
    np.testing.assert_array_equal(np.stack([ops.convert_to_numpy(g) for g in gradients]), [[3 + 2, 40 + 4], [1, 20]])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [pytest.param(SMALL, "float32", marks=pytest.mark.soak), pytest.param(CROSS, "bfloat16", marks=pytest.mark.slow)],
    ids=["dot", "cross, bfloat16"],
)
def test_a_tiny_profile_has_a_time_for_each_stage_and_draws(shape, dtype, monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "bandwidth", functools.partial(limits.bandwidth, megabytes=1))
    monkeypatch.setattr(limits, "product_rate", functools.partial(limits.product_rate, size=64))
    profile = stages.measure(shape, 8, dtype, "rowwise_adagrad", "uniform", steps=3, rounds=1)
    assert 1 <= profile.unique <= 14
    assert all(profile.seconds[name] > 0 for name in (*counting.STAGES, "train_on_batch", "fit"))
    assert profile.seconds["sum of the stages"] == sum(profile.seconds[name] for name in counting.STAGES)
    rows = profile.rows()
    assert [row["stage"] for row in rows][-4:] == ["sum of the stages", "train_on_batch", "fit", "left over in fit"]
    assert len({tuple(row) for row in rows}) == 1
    stages_plot.plot(profile, tmp_path / "stages.png", "tiny")
    assert (tmp_path / "stages.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_row_update_changes_the_rows_that_were_looked_up_and_no_others():
    schema = Schema(dense=["a", "b", "c"], categorical=[Categorical("d", 10), Categorical("e", 4)])
    model = DLRM(schema, 2, SMALL.bottom, SMALL.top, seed=0)
    model.compile("adagrad", "binary_crossentropy")
    batch = {"dense": np.ones((3, 3), "float32"), "sparse": np.array([[1, 0], [1, 2], [7, 2]], "int32")}
    model.train_on_batch(batch, np.array([0, 1, 1]))
    tensors = keras.tree.map_structure(ops.convert_to_tensor, batch)
    step = staged_step.StagedStep(model, tensors, np.array([0.0, 1.0, 1.0], "float32"))
    before = {name: table.copy() for name, table in model.embedding_tables().items()}
    assert set(step(tensors, ops.ones((3,)))) == set(counting.STAGES) - {"input"}
    changed = {name: np.flatnonzero((table != before[name]).any(1)) for name, table in model.embedding_tables().items()}
    assert {name: rows.tolist() for name, rows in changed.items()} == {"d": [1, 7], "e": [0, 2]}


def test_the_command_line_changes_parts_of_a_preset():
    widths = {"rows": None, "dim": None, "bottom": None, "top": None, "hotness": None}
    shape = stages.shape_of(PRESETS["criteo_kaggle"], 0.01, **{**widths, "dim": 8, "hotness": (2,)})
    assert (shape.dim, shape.bottom, shape.hotness, shape.ids) == (8, (512, 256, 64, 8), (2,) * 26, 52)
    assert stages.Numbers().convert("10x2,5", None, None) == (10, 10, 5)
    with pytest.raises(ValueError, match="--bottom ends with 7, which must be --dim 8"):
        stages.shape_of(PRESETS["criteo_kaggle"], 0.01, **{**widths, "bottom": (7,), "dim": 8})
    with pytest.raises(ValueError, match="--hotness has 2 numbers for 26 tables"):
        stages.shape_of(PRESETS["criteo_kaggle"], 0.01, **{**widths, "hotness": (1, 2)})
