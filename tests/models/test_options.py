"""Options of models and of `compile`: losses, rules, precision, frozen tables, ids out of range."""

import importlib
import importlib.util
import warnings

import keras
import numpy as np
import pytest
from helpers.calls import EAGER, called
from helpers.numpy_layers import sigmoid
from helpers.numpy_models import bce
from helpers.zoo import MODELS, SPARSE, WITHOUT_SPARSE, X, Y, data, dlrm, numpy_forward

from keras_dlrm import optimizers
from keras_dlrm.metrics import NormalizedEntropy
from keras_dlrm.schema.schema import Schema


def test_first_order_weights_are_neither_rounded_nor_dropped():
    model = dlrm(first_order=True, embedding_dropout=0.5, dtype="mixed_bfloat16")
    tables = {name: np.zeros_like(rows) for name, rows in model.embedding_tables().items()}
    for rows in tables.values():
        rows[:, -1] = 0.501
    model.set_embedding_tables(tables)
    _, first_order = model.pooled_vectors({"sparse": np.array([[1, 2, -1, -1, 3]])}, training=True)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(first_order), [[3 * 3 * 0.501]], rtol=1e-6)


@pytest.mark.parametrize("name", ["dlrm dot", "dlrm cat without sparse", "dcnv2 parallel"])
def test_nan_among_the_dense_features_is_nan_in_the_prediction_and_in_the_loss(name):
    model = MODELS[name].make()
    model.compile("sgd", metrics=[NormalizedEntropy(name="ne")])
    batch, y = data(model.schema)
    batch = {**batch, "dense": batch["dense"].copy()}
    batch["dense"][3, 1] = np.nan
    whole = np.arange(10) != 3
    for got in (model.predict(batch, verbose=0), keras.ops.convert_to_numpy(called(model, batch))):
        np.testing.assert_array_equal(np.isfinite(got[:, 0]), whole)
    model.stops_when_not_finite = False
    history = model.fit(batch, y, batch_size=10, verbose=0).history
    assert np.isnan(history["loss"][0]) and np.isnan(history["ne"][0])


@pytest.mark.parametrize("shared", ["embedding_optimizer", "optimizer"])
def test_a_rule_given_to_two_models_trains_both_and_keeps_its_slots_for_the_first(shared):
    ends = []
    for rules in ([optimizers.Adagrad(0.1)] * 2, [optimizers.Adagrad(0.1), optimizers.Adagrad(0.1)]):
        models = [dlrm(), dlrm(seed=2)]
        for model, rule in zip(models, rules, strict=True):
            model.compile(**{"optimizer": "sgd", shared: rule}, run_eagerly=EAGER)
            model.train_on_batch(X, Y)
        models[0].train_on_batch(X, Y)
        ends.append([w for model in models for w in model.get_weights()])
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_compiling_again_with_the_same_rule_keeps_its_slots():
    model, rule = dlrm(), optimizers.Adagrad(0.1)
    for _ in range(2):
        model.compile("sgd", embedding_optimizer=rule, run_eagerly=EAGER)
        assert model.optimizer.rows is rule
        model.train_on_batch(X, Y)
    assert int(keras.ops.convert_to_numpy(rule.iterations)) == 2


# -- losses --


def test_cross_entropy_of_extreme_logits_is_exact_and_has_a_gradient():
    model = dlrm()
    model.top_mlp.dense_layers[-1].bias.assign([300.0])
    model.compile(keras.optimizers.SGD(0.5))
    y = np.zeros(10, "float32")
    expected = bce(numpy_forward("dlrm dot", model, X), y[:, None]).mean()
    assert expected > 250
    assert float(model.train_on_batch(X, y)) == pytest.approx(expected, rel=1e-5)
    # The gradient of the bias is the mean of p - y: 1 where p is wrong for sure.
    bias = model.top_mlp.dense_layers[-1].get_weights()[1]
    assert bias[0] == pytest.approx(299.5, rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        "binary_crossentropy",
        "bce",
        keras.losses.binary_crossentropy,
        keras.losses.BinaryCrossentropy(label_smoothing=0.2),
        ["binary_crossentropy"],
    ],
    ids=["name", "short name", "function", "object", "list"],
)
def test_every_spelling_of_cross_entropy_is_computed_from_logits(loss):
    model = dlrm()
    model.top_mlp.dense_layers[-1].bias.assign([60.0])
    model.compile("sgd", loss=loss, run_eagerly=EAGER)
    smoothed = np.full((10, 1), 0.1 if isinstance(loss, keras.losses.Loss) else 0.0)
    got = model.evaluate(X, np.zeros(10, "float32"), batch_size=10, verbose=0)
    assert got == pytest.approx(bce(numpy_forward("dlrm dot", model, X), smoothed).mean(), rel=1e-5)


def test_other_losses_see_probabilities():
    model = dlrm(kernel_l2=0.1)
    model.compile("sgd", loss="mse", run_eagerly=EAGER)
    p = sigmoid(numpy_forward("dlrm dot", model, X))[:, 0]
    dense = [*model.bottom_mlp.dense_layers, *model.top_mlp.dense_layers]
    penalty = 0.1 * sum((layer.get_weights()[0] ** 2).sum() for layer in dense)
    assert model.evaluate(X, Y, batch_size=10, verbose=0) == pytest.approx(np.mean((p - Y) ** 2) + penalty, rel=1e-5)


# -- options --


@pytest.mark.slow
def test_mixed_precision_trains_near_float32_and_predicts_float32():
    ends = []
    for dtype in ("float32", "mixed_bfloat16"):
        model = dlrm(dtype=dtype)
        model.compile("adagrad")
        history = model.fit(X, Y, batch_size=10, epochs=3, shuffle=False, verbose=0).history["loss"]
        got = model.predict(X, verbose=0)
        assert got.dtype == np.float32 and {w.dtype for w in model.trainable_variables} == {"float32"}
        ends.append(history)
    np.testing.assert_allclose(*ends, rtol=0.03)
    assert ends[1][2] < ends[1][0]


def test_mixed_float16_is_refused_with_what_to_use():
    """Keras would wrap the optimizer in loss scaling, which is not defined on rows."""
    with pytest.raises(ValueError, match="mixed_bfloat16"):
        dlrm(dtype="mixed_float16").compile("sgd")


def test_frozen_embeddings_stay_bit_identical(tmp_path):
    model = dlrm()
    model.embeddings.trainable = False
    model.compile("adagrad")
    before, weights = model.embedding_tables(), model.top_mlp.get_weights()
    model.fit(X, Y, batch_size=10, epochs=2, verbose=0)
    for name, rows in model.embedding_tables().items():
        np.testing.assert_array_equal(rows, before[name])
    assert np.abs(weights[0] - model.top_mlp.get_weights()[0]).max() > 0
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert not loaded.embeddings.trainable and loaded.bottom_mlp.trainable


def test_ids_out_of_range_are_counted_over_the_epoch():
    wrong = {**X, "sparse": X["sparse"].copy()}
    wrong["sparse"][[0, 5, 9], [0, 1, 4]] = [7, -2, 99]
    model = dlrm()
    model.compile("sgd", count_out_of_range=True)
    assert model.fit(wrong, Y, batch_size=4, epochs=2, verbose=0).history["ids_out_of_range"] == [3, 3]
    assert model.evaluate(wrong, Y, batch_size=4, verbose=0, return_dict=True)["ids_out_of_range"] == 3
    model.compile("sgd", run_eagerly=EAGER)
    assert set(model.evaluate(X, Y, verbose=0, return_dict=True)) == {"loss"}


@pytest.mark.slow
def test_ids_beyond_32_bits_take_the_oov_row_and_are_counted():
    """On JAX, too, which would cut off the upper bits."""
    model = dlrm()
    model.compile("sgd", count_out_of_range=True, run_eagerly=EAGER)
    far, near = ({**X, "sparse": X["sparse"].copy()} for _ in range(2))
    far["sparse"][[0, 1, 2], [0, 0, 4]] = [2**32 + 5, -(2**32) - 1, 2**62 + 3]
    near["sparse"][[0, 1, 2], [0, 0, 4]] = 0
    expected = sigmoid(numpy_forward("dlrm dot", model, near))
    for got in (model.predict(far, verbose=0), model.predict_on_batch(far), keras.ops.convert_to_numpy(model(far))):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert model.evaluate(far, Y, verbose=0, return_dict=True)["ids_out_of_range"] == 3
    model.train_on_batch(far, Y)
    assert model.fit(far, Y, validation_data=(far, Y), verbose=0).history["val_ids_out_of_range"] == [3]

    class Far(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, i):
            return far, Y

    sources = [Far(), (pair for pair in [(far, Y)] * 3)]
    if importlib.util.find_spec("tensorflow"):
        import tensorflow as tf

        sources.append(tf.data.Dataset.from_tensors((far, Y)))
    for source in sources:
        model.reset_metrics()
        history = model.fit(source, steps_per_epoch=1, validation_data=Far(), shuffle=False, verbose=0).history
        assert history["ids_out_of_range"] == history["val_ids_out_of_range"] == [3]
    np.testing.assert_allclose(model.predict(Far(), verbose=0), model.predict(near, verbose=0), rtol=1e-6)


def test_the_choice_to_compile_is_left_to_the_backend_that_loads():
    model = dlrm()
    model.compile("sgd")
    assert model.get_compile_config()["jit_compile"] == "auto"
    model.compile("sgd", jit_compile=False)
    assert model.get_compile_config()["jit_compile"] is False


def test_only_the_rows_of_the_batch_change():
    model = dlrm()
    model.compile("adagrad")
    before = model.embedding_tables()
    sparse = np.array([[0, 4, -1, -1, 3], [0, -1, -1, -1, 9]])  # 9 is out of range: OOV row 0
    model.train_on_batch({"dense": X["dense"][:2], "sparse": sparse}, np.ones(2, "float32"))
    touched = {"C1": {0}, "tags": {4}, "C3": {0, 3}}
    for name, rows in model.embedding_tables().items():
        changed = {i for i in range(len(rows)) if (rows[i] != before[name][i]).any()}
        assert changed == touched[name], name


def test_a_weighted_schema_trains():
    schema = Schema(dense=["I1", "I2"], categorical=SPARSE, weighted=True)
    model = dlrm(schema)
    model.compile("adam", run_eagerly=EAGER)
    weights = np.ones(X["sparse"].shape, "float32")
    plain = dlrm()
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(model.predict_on_batch({**X, "weights": weights}), plain.predict_on_batch(X), rtol=1e-6)
    before = model.embedding_tables()
    weights[:, 0] = 0
    model.train_on_batch({**X, "weights": weights}, Y)
    after = model.embedding_tables()
    np.testing.assert_array_equal(before["C1"], after["C1"])
    assert np.abs(before["C3"] - after["C3"]).max() > 0


def test_tables_can_be_replaced_by_name():
    model = dlrm()
    model.set_embedding_tables({"C3": np.zeros((4, 4))})
    assert not model.embedding_tables()["C3"].any() and model.embedding_tables()["C1"].any()
    with pytest.raises(ValueError, match="no categorical"):
        dlrm(WITHOUT_SPARSE, interaction="cat").set_embedding_tables({})


def test_summary_counts_the_tables_as_trainable():
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dlrm().summary(print_fn=lambda line, **_: lines.append(line))
    assert "171" in "".join(lines)
