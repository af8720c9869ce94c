"""Several labels: losses, missing labels, weights and metrics by name, ESMM, and what is refused."""

import keras
import numpy as np
import polars
import pytest
from helpers.zoo import MODELS, SCHEMA, data, labeled, numpy_forward
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dlrm import losses, tasks
from keras_dlrm.metrics import NormalizedEntropy, log_loss
from keras_dlrm.models import DLRM, FM, ClickModel, DCNv2, LogisticRegression
from keras_dlrm.schema.schema import Schema

NAME = "ple in dcnv2"
TWO = Schema(SCHEMA.dense, SCHEMA.categorical, ["click", "like"])
QUIET = {"verbose": 0}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def entropy(y, p):
    return -y * np.log(p) - (1 - y) * np.log(1 - p)


def of_labels(y, p, weights=None):
    """Mean cross-entropy of each label over the rows that have it, (T,)."""
    weights = np.ones(len(y)) if weights is None else weights
    return np.array([
        (weights * entropy(t, q))[~np.isnan(t)].sum() / (~np.isnan(t)).sum() for t, q in zip(y.T, p.T, strict=True)
    ])  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    model = MODELS[NAME].make()
    model.compile("adam", metrics=["auc", NormalizedEntropy("ne")], loss_weights={"like": 0.25})
    batch, y = data(model.schema, 60)
    model.fit(batch, y, batch_size=20, **QUIET)
    return model, batch, y


@pytest.mark.slow
def test_the_loss_is_the_weighted_sum_of_means_over_the_rows_that_have_a_label(trained):
    model, batch, y = trained
    p = sigmoid(numpy_forward(NAME, model, batch))
    got = model.evaluate(batch, y, batch_size=60, return_dict=True, **QUIET)
    assert set(got) == {"loss", "auc_click", "auc_like", "ne_click", "ne_like"}
    assert got["loss"] == pytest.approx(of_labels(y, p) @ [1, 0.25], rel=1e-5)
    have = ~np.isnan(y[:, 1])
    assert got["ne_like"] == pytest.approx(log_loss(y[have, 1], p[have, 1]) / entropy(*[y[have, 1].mean()] * 2), rel=1e-5)
    alone = keras.metrics.AUC()  # of 200 thresholds, far from the exact one where predictions are near each other
    alone.update_state(y[:, 0], p[:, 0])
    assert got["auc_click"] == pytest.approx(float(alone.result()), abs=0.02)
    weights = np.linspace(0.5, 2, 60, dtype="float32")
    got = model.evaluate(batch, y, sample_weight=weights, batch_size=60, return_dict=True, **QUIET)
    assert got["loss"] == pytest.approx(of_labels(y, p, weights) @ [1, 0.25], rel=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_other_reductions_are_those_of_each_label(reduction):
    model = LogisticRegression(TWO, seed=1)
    model.compile("sgd", loss=keras.losses.BinaryCrossentropy(reduction=reduction))
    batch, y = data(TWO, 9)
    weights = np.linspace(0.5, 2, 9, dtype="float32")
    each = weights[:, None] * entropy(y, sigmoid(numpy_forward("logistic regression", model, batch)))
    expected = np.nansum(each, 0)
    if reduction != "sum":
        expected = expected / (weights[:, None] * ~np.isnan(y)).sum(0)
    assert float(model.test_on_batch(batch, y, weights)) == pytest.approx(expected.sum(), rel=1e-5)


@pytest.mark.slow
def test_a_label_that_nobody_has_changes_nothing():
    batch, y = data(TWO, 8)
    ends = []
    for labels in (y[:, 0], np.stack([y[:, 0], np.full(8, np.nan)], 1)):
        model = LogisticRegression(Schema(SCHEMA.dense, SCHEMA.categorical, "click") if labels.ndim == 1 else TWO, seed=1)
        model.compile(keras.optimizers.SGD(0.5))
        loss = float(model.train_on_batch(batch, labels.astype("float32")))
        ends.append((loss, model.predict(batch, **QUIET)[:, 0]))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-6)
    np.testing.assert_allclose(*[p for _, p in ends], rtol=1e-5)
    np.testing.assert_array_equal(model.predict(batch, **QUIET)[:, 1], 0.5)


@pytest.mark.slow
def test_it_is_saved_with_losses_and_metrics_and_trains_on(trained, tmp_path):
    model, batch, y = trained
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.tasks == tasks.PLE([], 1, 1, [3], 2) and loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded.predict(batch, **QUIET), model.predict(batch, **QUIET))
    ways = [each.evaluate(batch, y, return_dict=True, **QUIET) for each in (model, loaded)]
    assert ways[0] == pytest.approx(ways[1], rel=1e-6)
    assert np.isfinite(loaded.train_on_batch(batch, y)).all()
    assert model.predict({key: values[:0] for key, values in batch.items()}, **QUIET).shape == (0, 2)


def test_metrics_and_losses_of_every_form_are_taken():
    batch, y = data(TWO, 12)
    model = LogisticRegression(TWO, seed=1)
    model.compile("sgd", loss=keras.losses.mean_squared_error, metrics={"like": ["accuracy", keras.metrics.binary_crossentropy]})
    got = model.evaluate(batch, y, return_dict=True, **QUIET)
    assert set(got) == {"loss", "accuracy_like", "binary_crossentropy_like"}
    model.compile("sgd", metrics=[lambda labels, p: keras.ops.abs(labels - p)])  # no configuration can hold it
    values = model.evaluate(batch, y, return_dict=True, **QUIET)
    assert [round(values[name], 5) for name in values if name != "loss"] == [0.5, 0.5]
    assert got["loss"] == pytest.approx(0.5, rel=1e-6) and got["binary_crossentropy_like"] == pytest.approx(np.log(2), rel=1e-5)


# -- ESMM --


@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=4), st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_esmm_is_the_cross_entropy_of_the_product(logits, kind):
    z = np.array(logits, "float32")
    y = np.tile(np.float32([[0, 0], [1, 0], [1, 1]][kind]), (len(z), 1))
    p = sigmoid(z.astype("float64"))
    product = np.clip(p[:, 0] * p[:, 1], 1e-30, None)
    neither = np.exp(-z.astype("float64").sum(1)) + np.exp(-z.astype("float64")).sum(1)  # (1 - product) / product
    expected = np.log1p(np.exp(-np.abs(z[:, 0]))) + np.maximum(z[:, 0], 0) - y[:, 0] * z[:, 0]
    expected = expected - (np.log(product) if kind == 2 else np.log(product) + np.log(neither))
    got = keras.ops.convert_to_numpy(losses.ESMM().of_logits(keras.ops.convert_to_tensor(y), keras.ops.convert_to_tensor(z)))
    np.testing.assert_allclose(got.sum(1), expected, rtol=1e-4, atol=1e-4)


def test_esmm_counts_no_click_as_no_purchase_and_leaves_unknown_ones_out():
    model = MODELS[NAME].make()
    model.compile("sgd", loss=losses.ESMM(), metrics=["auc"], loss_weights={"click": 2.0})
    batch, _ = data(model.schema, 6)
    y = np.float32([[0, np.nan], [0, 0], [1, 0], [1, 1], [1, np.nan], [np.nan, np.nan]])
    p = sigmoid(numpy_forward(NAME, model, batch))
    both = entropy(np.float64([0, 0, 0, 1]), p[:4].prod(1)).mean()
    expected = 2 * entropy(y[:5, 0], p[:5, 0]).mean() + both
    assert float(model.test_on_batch(batch, y)[0]) == pytest.approx(expected, rel=1e-5)
    alone = losses.ESMM(reduction="sum")(y[:5], p[:5].astype("float32"))
    assert float(alone) == pytest.approx(5 * entropy(y[:5, 0], p[:5, 0]).mean() + 4 * both, rel=1e-4)


# -- refusals --


@pytest.mark.slow
def test_wrong_labels_and_losses_are_refused(trained):
    model, batch, y = trained
    with pytest.raises(ValueError, match=r"labels have shape \(60,\); they must be \(B, 2\), of \['click', 'like'\]"):
        model.evaluate(batch, y[:, 0], **QUIET)
    with pytest.raises(ValueError, match="label 2.0 in row 3"):
        model.evaluate(batch, np.where(np.arange(60)[:, None] == 3, 2.0, y), **QUIET)
    with pytest.raises(ValueError, match="class_weight=.* several; give loss_weights by name"):
        model.fit(batch, y, class_weight={0: 1.0, 1: 2.0}, **QUIET)
    with pytest.raises(ValueError, match=r"sample weights have shape \(60, 2\); .* weighed by loss_weights"):
        model.fit(batch, y, sample_weight=np.ones((60, 2)), **QUIET)
    with pytest.raises(ValueError, match="label None in row 0 is not a number; give NaN where a label is missing"):
        model.fit(batch, np.array([[1, None]] * 60), **QUIET)
    swapped = polars.DataFrame(y, schema=["like", "click"])
    for call in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match=r"columns \['like', 'click'\]; give those of the .*, \['click', 'like'\]"):
            call(batch, swapped)
    fresh = LogisticRegression(TWO)
    for loss in ("esmm", {"click": "mse", "like": "mse"}):
        with pytest.raises(ValueError, match="compile: loss=.* is no loss of the labels .* kd.losses.ESMM"):
            fresh.compile("sgd", loss=loss)
    with pytest.raises(ValueError, match="loss_weights has 'buy', which is not a label"):
        fresh.compile("sgd", loss_weights={"buy": 1.0})
    with pytest.raises(TypeError, match=r"loss_weights=\[1, 2\] must be a mapping"):
        fresh.compile("sgd", loss_weights=[1, 2])
    with pytest.raises(ValueError, match="metrics has 'buy', which is not a label"):
        fresh.compile("sgd", metrics={"buy": "auc"})
    with pytest.raises(ValueError, match="ESMM: the schema has the labels .* it needs two"):
        LogisticRegression(Schema(["a"], label=["x", "y", "z"])).compile("sgd", loss=losses.ESMM())


def test_models_without_a_last_layer_and_heads_without_labels_are_refused():
    with pytest.raises(ValueError, match="FM: the schema has the labels .* no last layer gives a logit for each"):
        FM(TWO, 4)
    with pytest.raises(ValueError, match="DCNv2: tasks=.* needs several labels, and the schema has 'label' alone"):
        DCNv2(SCHEMA, 4, tasks=tasks.MMoE())
    with pytest.raises(ValueError, match="LogisticRegression: tasks=.* would replace a last layer"):
        LogisticRegression(TWO, tasks=tasks.MMoE())
    with pytest.raises(ValueError, match="tasks='mmoe' is no head for several labels; give one of .*'MMoE', 'PLE'"):
        DCNv2(TWO, 4, tasks="mmoe")
    with pytest.raises(ValueError, match="whose options are .*expert_mlp"):
        DCNv2(TWO, 4, tasks={"type": "MMoE", "gates": 3})
    with pytest.raises(ValueError, match="PLE: levels=0"):
        tasks.PLE(levels=0)
    with pytest.raises(ValueError, match=r"MMoE: expert_mlp=\[\] must have"):
        tasks.MMoE(expert_mlp=[])


def test_a_model_of_ones_own_gives_a_logit_for_each_label():
    class Own(ClickModel):
        takes_tasks = True

        def __init__(self, schema, units=None, **kwargs):
            super().__init__(schema, **kwargs)
            self.last = self.last_layer(2, 1, "last") if units is None else keras.layers.Dense(units)

        def logits(self, inputs, training=None):
            return self.last(inputs["dense"])

    schema = Schema(["I1", "I2"], label=["click", "like"])
    batch, y = data(schema, 5)
    for head in (None, tasks.SharedBottom([3])):
        model = Own(schema, tasks=head)
        model.compile("sgd")
        assert np.isfinite(model.train_on_batch(batch, y)) and model.predict(batch, **QUIET).shape == (5, 2)
    with pytest.raises(ValueError, match=r"logits have shape \(5, 1\); they must be \(B, 2\), one for each of"):
        Own(schema, units=1)(batch)


def test_a_top_mlp_of_a_last_layer_alone_is_a_head():
    model = labeled(lambda s: DLRM(s, 4, [4], [1], tasks=tasks.SharedBottom([3]), seed=1))()
    assert type(model.top_mlp).__name__ == "SharedBottomHead"
    assert model(data(TWO, 3)[0]).shape == (3, 2)
