"""Search spaces: ranges around an experiment's values, whose every point is an experiment that can be built."""

import dataclasses
import json
import math

import numpy as np
import pytest
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.model_types import MODELS
from keras_dlrm.training.recipe import recipe
from keras_dlrm.training.tuning_space import Choice, Range, search_space, values_of, with_values

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 30), kd.Categorical("d", 9)])


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return PlantedClickLog(SCHEMA, seed=0).write(tmp_path_factory.mktemp("log") / "log", {"train": 300})


@pytest.mark.neutral
def test_ranges_are_around_the_values_of_the_recipe(log):
    space = search_space(recipe(log), SCHEMA)
    assert space["optimizer.learning_rate"] == Range(0.0002, 0.005, True)
    assert space["batch_size"] == Choice((128, 256, 512))
    assert space["model.embedding_dim"] == Choice((8, 16, 32))
    assert space["model.bottom_mlp"] == Choice(("[32]", "[64]", "[128]", "[64, 64]"))
    assert space["model.top_mlp"] == Choice(("[128, 64]", "[256, 128]", "[512, 256]", "[128]", "[256, 256, 128]"))
    assert space["model.dropout"] == Range(0.2, 0.8, False)
    assert space["model.interaction"] == Choice(("cat_dot", "cat", "dot"))
    own = {"model.cross_layers": Choice((1, 2, 3, 4)), "model.structure": Choice(("stacked", "parallel"))}
    assert own.items() <= search_space(recipe(log, "DCNv2"), SCHEMA).items()


@pytest.mark.neutral
@pytest.mark.parametrize("model", [*MODELS, "my_models:Wide"])
def test_the_values_of_an_experiment_lie_in_its_space_and_make_the_same_experiment(log, model):
    experiment = recipe(log, model)
    space = search_space(experiment, SCHEMA)
    own = values_of(experiment, space)
    for key, values in space.items():
        assert own[key] in values.values if isinstance(values, Choice) else values.low <= own[key] <= values.high
    assert with_values(experiment, space, own) == experiment
    assert with_values(experiment, space, own).reasons == experiment.reasons


@pytest.mark.neutral
def test_what_is_fixed_or_not_stated_is_not_searched(log):
    experiment = recipe(log)
    space = search_space(experiment, SCHEMA)
    assert not [key for key in search_space(experiment, SCHEMA, ["model"]) if key.startswith("model.")]
    assert set(space) - set(search_space(experiment, SCHEMA, ["batch_size", "optimizer.learning_rate"])) == {
        "batch_size", "optimizer.learning_rate",
    }  # fmt: skip
    assert set(search_space(Experiment(optimizer="adam"), SCHEMA)) == {"batch_size"}
    schedule = {"name": "sgd", "learning_rate": {"learning_rate": 0.1, "warmup_steps": 3}}
    assert "optimizer.learning_rate.learning_rate" in search_space(Experiment(optimizer=schedule), SCHEMA)
    one = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 30)])
    assert "model.interaction" not in search_space(experiment, one)


@pytest.mark.neutral
def test_values_that_are_others_have_their_reason_in_the_file(log, tmp_path):
    experiment = recipe(log)
    space = search_space(experiment, SCHEMA)
    values = {**values_of(experiment, space), "optimizer.learning_rate": 0.00123456, "model.embedding_dim": 32}
    tuned = with_values(experiment, space, {**values, "model.top_mlp": "[128]"})
    assert tuned.optimizer["learning_rate"] == 0.00123
    assert tuned.model["bottom_mlp"] == [64, 32] and tuned.model["top_mlp"] == [128, 1]
    tuned.save(tmp_path / "best.yaml")
    text = (tmp_path / "best.yaml").read_text()
    assert "learning_rate: 0.00123  # tuned: 0.0002 … 0.005; 0.001 before" in text
    assert "embedding_dim: 32  # tuned: 8, 16, 32; 16 before" in text
    assert "patience: 3  # epochs without a better score" in text
    assert Experiment.load(tmp_path / "best.yaml") == dataclasses.replace(tuned, reasons={})


@suite_on("torch")
@pytest.mark.parametrize("model", MODELS)
def test_every_point_of_the_space_can_be_built(log, model):
    experiment, draw = recipe(log, model), np.random.default_rng(0)
    if model == "TwoTower":
        names = [*SCHEMA.dense_names, *SCHEMA.categorical_names]
        experiment = experiment.override({"model.user": names[:1], "model.item": names[1:]})
    space = search_space(experiment, SCHEMA)
    schema = kd.Schema(categorical=SCHEMA.categorical) if model in ("MatrixFactorization", "NeuMF") else SCHEMA
    for _ in range(3):
        values = {}
        for key, each in space.items():
            if isinstance(each, Choice):
                values[key] = each.values[draw.integers(len(each.values))]
            elif each.log:
                values[key] = math.exp(draw.uniform(math.log(each.low), math.log(each.high)))
            else:
                values[key] = draw.uniform(each.low, each.high)
        drawn = with_values(experiment, space, values)
        built = drawn.build(schema).get_config()
        for key in space:
            if key.startswith("model."):
                assert built[key.removeprefix("model.")] == drawn.model[key.removeprefix("model.")]
        if "model.top_mlp" in values:
            assert built["top_mlp"] == [*json.loads(values["model.top_mlp"]), 1]
