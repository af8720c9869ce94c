"""Defaults that look at the log, and averages of weights."""

import keras
import numpy as np
import pytest
import yaml
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.training.averaging import EVERY, Averaging
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.model_types import MODELS
from keras_dlrm.training.recipe import recipe
from keras_dlrm.training.run import train

SCHEMA = kd.Schema(
    dense=[kd.Dense("x", encoding="piecewise_linear")], categorical=[kd.Categorical("c", 30), kd.Categorical("h", 9, hotness=2)]
)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    rows = {"train": 900, "valid": 300, "test": 300}
    return PlantedClickLog(SCHEMA, seed=0).write(tmp_path_factory.mktemp("log") / "log", rows)


@pytest.mark.neutral
@pytest.mark.parametrize("model", [*MODELS, "my_models:Wide"])
def test_every_value_follows_from_the_log_and_has_its_reason(log, model, tmp_path):
    experiment = recipe(log, model)
    experiment.save(tmp_path / "experiment.yaml")
    text = (tmp_path / "experiment.yaml").read_text()
    for reason in experiment.reasons.values():
        assert f"  # {reason}" in text
    assert yaml.safe_load(text) == experiment.to_dict()
    assert Experiment.load(tmp_path / "experiment.yaml") == experiment
    assert experiment.batch_size == 256 and experiment.monitor == "both"


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("rows", "ids", "batch", "width", "rate", "factor", "dropout"),
    [
        (100, 50, 256, 16, 0.001, 1.0, 0.5),
        (30_000, 50, 256, 32, 0.01, 0.3, 0.5),
        (200_000, 50, 1024, 32, 0.01, 0.3, 0.2),
        (200_000, 10_000, 1024, 16, 0.001, 1.0, 0.2),
        (800_000, 50, 4096, 16, 0.005, 1.0, 0.2),
        (10**9, 50, 4096, 16, 0.005, 1.0, 0.2),
    ],
)
def test_sizes_and_rates_follow_from_rows_and_how_often_ids_are_seen(rows, ids, batch, width, rate, factor, dropout):
    class Log:
        schema, splits = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", ids)]), ("train",)

        def split(self, name):
            return range(rows)

    known = recipe(Log())
    assert (known.batch_size, known.lr_factor, known.embedding_optimizer["learning_rate"]) == (batch, factor, rate)
    assert (known.model["embedding_dim"], known.model["bottom_mlp"], known.model["dropout"]) == (width, [64, width], dropout)


@pytest.mark.neutral
def test_what_is_changed_has_no_reason(log):
    changed = recipe(log).override(["batch_size=64", "model={type: DCN}"])
    assert changed.batch_size == 64 and "patience" in changed.reasons
    assert not {"batch_size", "model.dropout"} & set(changed.reasons)


@pytest.mark.slow
@pytest.mark.neutral
def test_a_log_without_tables_or_dense_columns_has_a_recipe(tmp_path):
    for schema in (kd.Schema(dense=["x", "y"]), kd.Schema(categorical=[kd.Categorical("c", 9)])):
        folder = tmp_path / str(schema.n_dense)
        recipe(PlantedClickLog(schema, seed=0).write(folder, {"train": 50})).build(schema)


@pytest.mark.slow
def test_averages_are_those_of_the_weights_along_the_run(log):
    part = log.split("train")
    model = recipe(log).build(SCHEMA)
    averaging, seen = Averaging(0.999), []

    class Weights(keras.callbacks.Callback):
        """The weights, and the steps since the last ones, every so often and at the end of each epoch."""

        waited = 0

        def on_train_batch_end(self, batch, logs=None):
            self.waited += 1
            if self.waited == EVERY:
                self.note()

        def on_epoch_end(self, epoch, logs=None):
            if self.waited:
                self.note()

        def note(self):
            values = [keras.ops.convert_to_numpy(v.value).copy() for v in self.model.trainable_variables]
            seen.append((self.waited, values))
            self.waited = 0

    model.fit(part.dataset(18), epochs=2, verbose=0, callbacks=[averaging, Weights()])
    model.fit(*part.take(np.arange(18)), epochs=2, verbose=0, callbacks=[averaging, Weights()])  # an epoch of one step
    last = model.get_weights()
    expected = seen[0][1]
    for i, (steps, values) in enumerate(seen[1:], 2):
        keep = min(0.999**steps, (i - 1) / (i + 1))
        expected = [a * keep + v * (1 - keep) for a, v in zip(expected, values, strict=True)]
    assert len(seen) == averaging.updates == 10 and [steps for steps, _ in seen[-3:]] == [2, 1, 1]
    with averaging.in_place():
        for variable, value in zip(model.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(variable.value), value, rtol=1e-5, atol=1e-7)
    for mine, before in zip(model.get_weights(), last, strict=True):
        np.testing.assert_array_equal(mine, before)
    again = Averaging(0.999)
    again.set_model(model)
    again.restore(averaging.state())
    again.arrays = averaging.arrays
    with again.in_place():
        for variable, value in zip(model.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(variable.value), value, rtol=1e-5, atol=1e-7)


@suite_on("torch")
def test_a_stopped_run_with_averages_continues_with_the_same_scores(log, tmp_path):
    experiment = recipe(log).override(["epochs=3", "checkpoint_steps=10", "batch_size=32", "patience=0"])
    whole = train(experiment, log, tmp_path / "whole")

    class Stopped(Exception):
        pass

    plain, saves = Averaging.state, []

    def stopping(self):
        saves.append(plain(self))
        if len(saves) == 5:
            raise Stopped
        return saves[-1]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Averaging, "state", stopping)
        train(experiment, log, tmp_path / "run")
    resumed = train(experiment, log, tmp_path / "run", resume=True)
    for name, values in whole["history"].items():
        np.testing.assert_allclose(resumed["history"][name], values, rtol=1e-5, err_msg=name)
    assert resumed["test"] == pytest.approx(whole["test"], rel=1e-5)


@pytest.mark.neutral
def test_other_widths_are_followed_by_what_must_fit_them(log):
    assert recipe(log).override(["model.embedding_dim=4"]).model["bottom_mlp"] == [64, 4]
    mixed = recipe(log).override(["model.embedding_dim={c: 4}"]).model
    assert (mixed["bottom_mlp"], mixed["first_order"]) == ([64, 4], False)
    assert recipe(log).override(["model.bottom_mlp=[8, 4]"]).model["embedding_dim"] == 4
    own = recipe(log).override(["model.embedding_dim=4", "model.bottom_mlp=[8, 4]"]).model
    assert own["bottom_mlp"] == [8, 4] and own["first_order"]


@pytest.mark.neutral
def test_what_a_model_does_not_have_is_named(log):
    for setting in ("model.nothere=1", "model.type=DCN"):
        with pytest.raises(ValueError, match="is not an argument of .*; known are .*--model"):
            recipe(log).override([setting]).build(log.schema)


@pytest.mark.neutral
def test_hundreds_of_columns_make_no_huge_model():
    columns = [kd.Dense(f"x{i}", encoding="piecewise_linear") for i in range(400)]

    class Log:
        schema, splits = kd.Schema(dense=columns, categorical=[kd.Categorical("c", 9)]), ("train", "valid")

        def split(self, name):
            return range(600)

    assert recipe(Log()).model["interaction"] == "cat" and recipe(Log(), "DCNv2").model["projection_dim"] == 64
