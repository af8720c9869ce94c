"""The log of the trainers: the planted one, over tables of any size; a run in one process."""

import click
import numpy as np
import pytest
from click.testing import CliRunner
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.data.synthetic import PlantedClickLog
from trainers.hybrid import ClickLog, StepLoss, click_schema, hybrid_options, train


def test_small_tables_have_the_planted_log():
    batch, label = ClickLog(900, seed=3).batch(2, 31)
    expected, expected_label = PlantedClickLog(click_schema(900), seed=3).batch(2, 31)
    for name in expected:
        np.testing.assert_array_equal(batch[name], expected[name])
    np.testing.assert_array_equal(label, expected_label)


@pytest.mark.parametrize("rows", [2**20 + 1, 2**23, 300_000_007])
def test_ids_lie_over_the_rows_of_large_tables(rows):
    schema = click_schema(rows)
    batch, _ = ClickLog(rows, seed=0).batch(0, 4096)
    first = 0
    for column in schema.categorical:
        ids = batch["sparse"][:, first : first + column.hotness]
        assert ids.min() >= -1 and ids.max() < column.vocabulary_size
        if column.name in ("item", "history", "user"):
            assert ids.max() > column.vocabulary_size // 3
        first += column.hotness
    assert batch["sparse"].dtype == np.int32


@pytest.mark.neutral
@pytest.mark.parametrize("option", ["--timeout", "--learning-rate"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_what_is_no_number_above_0_is_refused_before_anything_starts(option, value):
    command = click.command()(hybrid_options(lambda **_: 1 / 0))
    done = CliRunner().invoke(command, [option, value])
    assert done.exit_code == 2
    assert option in done.output and "must be a finite number above 0" in done.output


@suite_on("torch")
def test_a_run_goes_on_but_not_back(tmp_path):
    def run(steps, optimizer="adagrad", seed=0, global_batch=16):
        model = kd.models.DLRM(click_schema(50), 4, bottom_mlp=[4], top_mlp=[4, 1], seed=0)
        model.compile(optimizer, metrics=[StepLoss()])
        return train(model, ClickLog(50, seed), steps, global_batch, tmp_path, 2).losses

    first = run(3)
    assert run(5)[:3] == first
    with pytest.raises(ValueError, match="--steps 4: the checkpoint in .* is of step 5; ask for at least as many"):
        run(4)
    with pytest.raises(ValueError, match="--learning-rate 0.5: the run in .* has 0.01; give that, or --checkpoint another"):
        run(6, kd.optimizers.Adagrad(0.5))
    for change, there in (({"seed": 7}, 0), ({"global_batch": 7}, 16)):
        option = f"--{next(iter(change)).replace('_', '-')}"
        with pytest.raises(ValueError, match=f"{option} 7: the run in .* has {there}; give that, or --checkpoint another"):
            run(6, **change)
