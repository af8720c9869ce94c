"""Optimizers that `compile` takes: the rule that follows each, or why none can, and `Hybrid` of a dense one and a rule."""

import json

import keras
import pytest

from keras_dlrm.embeddings.rules.follow import follow, get
from keras_dlrm.optimizers import SGD, Adagrad, Adam, Hybrid, RowwiseAdagrad
from keras_dlrm.schedules import WarmupHoldDecay


@pytest.mark.parametrize(
    "name, kind", [("sgd", SGD), ("adagrad", Adagrad), ("rowwise_adagrad", RowwiseAdagrad), ("Adam", Adam)]
)
def test_strings_name_rules(name, kind):
    assert type(get(name)) is kind
    hybrid = Hybrid(name)
    assert type(hybrid.dense) is kind and type(hybrid.rows) is kind and hybrid.rows is not hybrid.dense


def test_a_rule_for_both_parts_is_copied():
    rule = Adagrad(0.3, 0.1)
    for hybrid in (Hybrid(rule), Hybrid(rule, rule)):
        assert hybrid.rows is not rule and hybrid.rows.get_config() == rule.get_config()


def test_keras_optimizers_are_followed_with_their_options():
    sgd = follow(keras.optimizers.SGD(0.3))
    assert isinstance(sgd, SGD) and float(sgd.learning_rate) == pytest.approx(0.3)
    adagrad = follow(keras.optimizers.Adagrad(0.3, 0.2, 1e-5)).get_config()
    assert (adagrad["initial_accumulator_value"], adagrad["epsilon"], adagrad["epsilon_in_root"]) == (0.2, 1e-5, True)
    adam = follow(keras.optimizers.Adam(0.3, 0.8, 0.9, 1e-5)).get_config()
    assert (adam["beta_1"], adam["beta_2"], adam["epsilon"]) == (0.8, 0.9, 1e-5)
    schedule = WarmupHoldDecay(0.1, 3)
    assert (
        follow(keras.optimizers.Adam(schedule)).get_config()["learning_rate"]
        == Adam(schedule).get_config()["learning_rate"]
    )


@pytest.mark.parametrize(
    "optimizer, words",
    [
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9), "SGD with momentum=0.9"),
        (lambda: keras.optimizers.SGD(0.1, clipnorm=1.0), "clipnorm=1.0"),
        (lambda: keras.optimizers.SGD(0.1, clipvalue=1.0), "clipvalue=1.0"),
        (lambda: keras.optimizers.Adam(0.1, global_clipnorm=1.0), "global_clipnorm=1.0"),
        (lambda: keras.optimizers.Adam(0.1, weight_decay=0.1), "weight_decay=0.1"),
        (lambda: keras.optimizers.Adam(0.1, use_ema=True), "use_ema=True"),
        (lambda: keras.optimizers.Adam(0.1, amsgrad=True), "Adam with amsgrad=True"),
        (lambda: keras.optimizers.AdamW(0.1), "AdamW"),
        (lambda: keras.optimizers.RMSprop(0.1), "RMSprop"),
        (lambda: keras.optimizers.Adam(0.1, loss_scale_factor=2.0), "loss_scale_factor=2.0"),
    ],
)  # fmt: skip
def test_what_rows_cannot_follow_is_refused_with_what_to_pass(optimizer, words):
    with pytest.raises(ValueError, match=words) as caught:
        follow(optimizer())
    assert "embedding_optimizer" in str(caught.value) and "Adagrad" in str(caught.value)


@pytest.mark.parametrize(
    "optimizer, words",
    [
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "mixed_bfloat16"),
        (lambda: keras.optimizers.Adam(0.1, loss_scale_factor=2.0), "mixed_bfloat16"),
    ],
)
def test_what_cannot_be_split_is_refused_even_beside_a_rule(optimizer, words):
    with pytest.raises(ValueError, match=words):
        Hybrid(optimizer(), "sgd")


def test_dense_options_are_free_beside_a_rule():
    assert Hybrid(keras.optimizers.AdamW(0.1, clipnorm=1.0), "sgd").dense.clipnorm == 1.0


@pytest.mark.parametrize("bad, error", [("momentum", ValueError), (3, TypeError), (None, TypeError)])
def test_unknown_rules_are_refused_with_those_there_are(bad, error):
    with pytest.raises(error, match="rowwise_adagrad"):
        get(bad)


def test_setting_the_learning_rate_scales_both_parts():
    hybrid = Hybrid(keras.optimizers.Adam(0.4), RowwiseAdagrad(0.1))
    hybrid.learning_rate = 0.2
    assert float(hybrid.learning_rate) == pytest.approx(0.2)
    assert float(hybrid.rows.learning_rate) == pytest.approx(0.05)


def test_setting_the_learning_rate_beside_a_scheduled_rule_is_refused():
    """It would train the two parts at rates that nobody chose."""
    hybrid = Hybrid(keras.optimizers.Adam(0.4), RowwiseAdagrad(WarmupHoldDecay(0.1, 3)))
    with pytest.raises(TypeError, match="schedule"):
        hybrid.learning_rate = 0.2


def test_hybrid_config_round_trip_keeps_both_parts():
    hybrid = Hybrid(keras.optimizers.AdamW(0.4, clipnorm=1.0), RowwiseAdagrad(WarmupHoldDecay(0.1, 3), l2=0.5))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(hybrid))
    assert again.get_config() == hybrid.get_config()
    assert isinstance(again.dense, keras.optimizers.AdamW) and isinstance(again.rows, RowwiseAdagrad)


def test_a_rate_that_was_zero_once_does_not_freeze_the_tables():
    hybrid = Hybrid(SGD(0.1), SGD(0.05))
    for rate in (0.0, 0.2):
        hybrid.learning_rate = rate
    assert float(hybrid.rows.learning_rate) == pytest.approx(0.1)
    assert Hybrid.from_config(hybrid.get_config()).ratio == pytest.approx(0.5)


def test_a_global_norm_is_refused_because_rows_would_be_missing_from_it():
    with pytest.raises(ValueError, match="global_clipnorm"):
        Hybrid(keras.optimizers.SGD(0.1, global_clipnorm=1.0), SGD(0.1))


def test_a_schedule_in_keras_short_form_is_read_and_the_config_left_alone():
    config = {"learning_rate": {"class_name": "ExponentialDecay", "config": {
        "initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5}}, "l2": 0.1}  # fmt: skip
    before = json.dumps(config)
    for rule in (Adagrad, RowwiseAdagrad, SGD):
        made = rule.from_config(config)
        assert isinstance(made._learning_rate, keras.optimizers.schedules.ExponentialDecay) and made.l2 == 0.1
        assert json.dumps(config) == before
