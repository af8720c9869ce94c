"""One suite for every model: parameters, forward pass in NumPy, training from any kind of data, saving."""

import importlib
import importlib.util
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from helpers.calls import called
from helpers.suite import in_suite, suite_on
from helpers.zoo import (
    KINDS,
    MODELS,
    SCHEMA,
    SPARSE,
    TABLES,
    WITHOUT_DENSE,
    WITHOUT_SPARSE,
    PairSum,
    Parts,
    cross,
    data,
    dlrm,
    numpy_forward,
)

from keras_dlrm import optimizers
from keras_dlrm.backend.private_keras import layers_in
from keras_dlrm.export import onnx, savedmodel
from keras_dlrm.metrics import NormalizedEntropy
from keras_dlrm.models import (
    DCN,
    DLRM,
    FM,
    GDCN,
    DCNv2,
    DCNv3,
    FinalMLP,
    MaskNet,
    MatrixFactorization,
    NeuMF,
    RankMixer,
)
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.usefixtures("quick_exports")

BACKEND = keras.backend.backend()
# The quicker way to run a step once: JAX compiles each operation of an eager one.
EAGER = BACKEND != "jax"
every_model = pytest.mark.parametrize("name", MODELS)
every_kind = pytest.mark.parametrize("name", KINDS)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def mean(losses):
    """Of each label over the rows that have it."""
    return np.nanmean(losses, axis=0).sum()


def bce(z, y):
    """Per example, from logits."""
    return np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))


def snapshot(model):
    return [w.copy() for w in model.get_weights()]


# -- every model --


@every_model
def test_it_is_built_without_a_batch_and_has_as_many_parameters_as_counted_by_hand(name):
    model, count = MODELS[name].make(), MODELS[name].count
    # On JAX and torch Keras takes a batch from the data to build what is not.
    assert [layer.name for layer in layers_in(model) if not layer.built] == []
    assert model.count_params() == count
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == count


@every_model
def test_predictions_equal_numpy(name):
    model = MODELS[name].make()
    batch, _ = data(model.schema, 6)
    got = keras.ops.convert_to_numpy(called(model, batch))
    np.testing.assert_allclose(got, sigmoid(numpy_forward(name, model, batch)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@every_kind
def test_predict_equals_numpy_also_in_the_last_partial_batch(name):
    model = MODELS[name].make()
    batch, _ = data(model.schema, 10)
    got = model.predict(batch, batch_size=4, verbose=0)
    assert got.shape == (10, model.n_labels) and got.dtype == np.float32
    np.testing.assert_allclose(got, sigmoid(numpy_forward(name, model, batch)), rtol=1e-5, atol=1e-6)


def one_step(model, batch, y):
    """Minus the gradients of all weights, from a step of SGD at rate 1, and the loss before it."""
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=EAGER)
    before = [w.astype("float64") for w in model.get_weights()]
    loss = float(model.train_on_batch(batch, y))
    return before, [after - start for start, after in zip(before, model.get_weights(), strict=True)], loss


@pytest.mark.slow
@every_kind
def test_a_step_goes_down_the_slope_of_the_loss_in_numpy(name):
    """Along a random direction of all weights at once."""
    model, case = MODELS[name].make(), MODELS[name]
    batch, y = data(model.schema, 6)
    y = y.reshape(6, -1)
    rng = np.random.default_rng(1)
    model.set_weights([w + rng.normal(0, 0.3, w.shape) for w in model.get_weights()])

    def loss(weights=None):
        """That of the model, and of its parts where these are above it."""
        whole = mean(bce(case.numpy(model, Parts(model, batch)), y))
        parts = [mean(bce(logits, y)) for logits in case.parts(model, Parts(model, batch))] if case.parts else []
        weights = [max(0, part - whole) for part in parts] if weights is None else weights
        return whole + np.dot(weights, parts), weights

    expected, weights = loss()
    assert (np.array(weights) > 0).any() == bool(case.parts)
    before, changes, reported = one_step(model, batch, y)
    assert [layer.name for layer in model.layers if not layer.built] == []  # else Keras goes through the model twice in each step
    assert reported == pytest.approx(expected, rel=1e-5)
    direction = [rng.normal(size=w.shape) for w in before]

    def along(step):
        model.set_weights([w + step * d for w, d in zip(before, direction, strict=True)])
        return loss(weights)[0]

    slope = -sum((change * d).sum() for change, d in zip(changes, direction, strict=True))
    assert slope == pytest.approx((along(1e-4) - along(-1e-4)) / 2e-4, rel=1e-2, abs=1e-2)


@every_kind
def test_bfloat16_predicts_near_numpy(name):
    model = MODELS[name].make(dtype="mixed_bfloat16")
    batch, _ = data(model.schema, 5)
    got = keras.ops.convert_to_numpy(called(model, batch))
    assert got.dtype == np.float32 and {w.dtype for w in model.trainable_variables} == {"float32"}
    np.testing.assert_allclose(got, sigmoid(numpy_forward(name, model, batch)), atol=0.02)


@pytest.mark.slow
@every_kind
def test_it_needs_no_dense_columns_and_is_exported_to_onnx(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    case = MODELS[name]
    model = case.make() if case.make().schema.n_dense == 0 else case.make(schema=WITHOUT_DENSE)
    batch, _ = data(model.schema, 5)
    session = runtime.InferenceSession(str(onnx(model, tmp_path / "m.onnx")))
    got = session.run(None, {"sparse": batch["sparse"].astype("int64")})[0]
    np.testing.assert_allclose(got, sigmoid(numpy_forward(name, model, batch)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", in_suite(KINDS, "dlrm dot", "deep fm", "wukong", "svd++", "dcn", "mmoe in dlrm"))
@suite_on("tensorflow")
def test_it_is_saved_and_served(name, tmp_path):
    """The export compares the answers itself."""
    model = MODELS[name].make()
    batch, _ = data(model.schema, 5)
    for variable in model.trainable_variables:  # those of the seed would be there without a file
        variable.assign(variable.value + 0.01)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(batch, verbose=0), model.predict(batch, verbose=0))
    savedmodel(loaded, tmp_path / "served" / "1")


@every_model
def test_config_round_trip_keeps_the_model_and_its_initial_weights(name):
    model = MODELS[name].make()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert type(again) is type(model) and again.get_config() == model.get_config()
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@every_model
def test_seeds_decide_the_initial_weights(name):
    first, second = MODELS[name].make(seed=1), MODELS[name].make(seed=2)
    own = {id(v) for v in first.interaction.weights} if isinstance(first, DLRM) else set()
    for v, a, b in zip(first.weights, first.get_weights(), second.get_weights(), strict=True):
        assert id(v) in own or np.isin(a, (0, 1)).all() or np.abs(a - b).max() > 0


def test_first_order_weights_are_neither_rounded_nor_dropped():
    model = dlrm(first_order=True, embedding_dropout=0.5, dtype="mixed_bfloat16")
    tables = {name: np.zeros_like(rows) for name, rows in model.embedding_tables().items()}
    for rows in tables.values():
        rows[:, -1] = 0.501
    model.set_embedding_tables(tables)
    _, first_order = model.pooled_vectors({"sparse": np.array([[1, 2, -1, -1, 3]])}, training=True)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(first_order), [[3 * 3 * 0.501]], rtol=1e-6)


RESUMED = {
    "dlrm dot, dropout and batch norm": lambda: dlrm(dropout=0.3, batch_norm=True, embedding_dropout=0.2),
    "dlrm cross": lambda: dlrm(interaction="cross", cross_layers=1, projection_dim=3, kernel_l2=0.01),
    "dlrm own layer": lambda: dlrm(interaction=PairSum()),
    "dcn": lambda: cross(DCN, dropout=0.3),
    "dcnv2": lambda: cross(DCNv2, structure="parallel", batch_norm=True, embedding_dropout=0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_training_continues_after_loading_with_the_same_losses(name, tmp_path):
    model = RESUMED[name]()
    model.compile(keras.optimizers.Adam(0.05), embedding_optimizer="rowwise_adagrad")
    batch, y = data(rows=8)
    first = [float(model.train_on_batch(batch, y)) for _ in range(2)]
    assert first[0] != first[1]
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert int(loaded.optimizer.iterations) == 2
    predictions = [m.predict_on_batch(batch) for m in (model, loaded)]
    np.testing.assert_array_equal(*predictions)
    for _ in range(2):
        model.reset_metrics()
        loaded.reset_metrics()
        assert float(model.train_on_batch(batch, y)) == float(loaded.train_on_batch(batch, y))
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    # Tables and slots are in the file once.
    sizes = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(lambda _, item: sizes.append(item.size) if isinstance(item, h5py.Dataset) else None)
    dense = sum(int(np.prod(v.shape)) for v in model.trainable_variables) - TABLES
    kept = model.count_params() + 2 * dense + 16
    assert kept <= sum(sizes) <= kept + 40, "some weight is stored twice"


# -- data of any kind --

X, Y = data(rows=10)


@pytest.fixture(scope="module")
def trained():
    """One compiled model for the tests of data: plain SGD, so that its weights are its whole state."""
    keras.utils.set_random_seed(0)
    model = dlrm()
    model.compile(keras.optimizers.SGD(0.1), metrics=["auc"])
    model.initial = snapshot(model)
    return model


def losses(model, *args, **options):
    model.set_weights(model.initial)
    history = model.fit(*args, epochs=2, shuffle=False, verbose=0, **options).history
    return history["loss"]


@pytest.fixture(scope="module")
def expected(trained):
    return losses(trained, X, Y, batch_size=4)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        part = slice(4 * i, 4 * i + 4)
        return {name: a[part] for name, a in X.items()}, Y[part]


@pytest.mark.slow
def test_fit_takes_a_pydataset(trained, expected):
    np.testing.assert_allclose(losses(trained, Batches()), expected, rtol=1e-6)


@pytest.mark.slow
def test_fit_takes_a_generator(trained, expected):
    def endless():
        while True:
            yield from (Batches()[i] for i in range(3))

    np.testing.assert_allclose(losses(trained, endless(), steps_per_epoch=3), expected, rtol=1e-6)


def test_fit_takes_a_tf_dataset(trained, expected):
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    np.testing.assert_allclose(losses(trained, dataset), expected, rtol=1e-6)


def test_fit_takes_a_torch_data_loader(trained, expected):
    torch = pytest.importorskip("torch")

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(Y)

        def __getitem__(self, i):
            return {name: a[i] for name, a in X.items()}, Y[i]

    loader = torch.utils.data.DataLoader(Rows(), batch_size=4)
    np.testing.assert_allclose(losses(trained, loader), expected, rtol=1e-6)


def test_validation_and_evaluate_agree(trained):
    trained.set_weights(trained.initial)
    history = trained.fit(X, Y, batch_size=4, epochs=1, verbose=0, validation_data=(X, Y), shuffle=False).history
    result = trained.evaluate(X, Y, batch_size=4, verbose=0, return_dict=True)
    assert set(result) == {"loss", "auc"}
    for name, value in result.items():
        assert history[f"val_{name}"][0] == pytest.approx(value, rel=1e-6)
    assert result["loss"] == pytest.approx(bce(numpy_forward("dlrm dot", trained, X), Y[:, None]).mean(), rel=1e-5)


@pytest.mark.parametrize("y_shape", [(10,), (10, 1)], ids=str)
@pytest.mark.parametrize("weight_shape", [None, (10,), (10, 1)], ids=str)
def test_labels_and_weights_may_be_columns_or_flat(trained, y_shape, weight_shape):
    trained.set_weights(trained.initial)
    weights = None if weight_shape is None else np.linspace(0.5, 2, 10, dtype="float32")
    got = trained.evaluate(
        X,
        Y.reshape(y_shape).astype("int64"),
        sample_weight=None if weights is None else weights.reshape(weight_shape),
        batch_size=10,
        verbose=0,
        return_dict=True,
    )
    z = numpy_forward("dlrm dot", trained, X)[:, 0]
    assert got["loss"] == pytest.approx(np.mean(bce(z, Y) * (1 if weights is None else weights)), rel=1e-5)
    assert 0 <= got["auc"] <= 1


@pytest.mark.parametrize("metrics", [None, ["auc", NormalizedEntropy()]], ids=["no metrics", "metrics"])
def test_absent_or_several_labels_are_refused(metrics):
    fresh = dlrm()
    fresh.compile("sgd", metrics=metrics)
    with pytest.raises(ValueError, match="no labels"):
        fresh.fit(X, verbose=0)
    with pytest.raises(ValueError, match=r"labels have shape .*2\).* must be \(B,\)"):
        fresh.fit(X, np.stack([Y, 1 - Y], 1), verbose=0)


@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_labels_that_cross_entropy_has_no_meaning_for_are_refused(trained, call):
    quiet = {} if call.endswith("batch") else {"verbose": 0}
    for wrong, words in ((-1.0, "label -1.0 in row 2"), (2.0, "label 2.0 in row 2"), (np.nan, "label nan in row 2")):
        y = Y.copy()
        y[2] = wrong
        with pytest.raises(ValueError, match=rf"{call}: {words}; .* in \[0, 1\]"):
            getattr(trained, call)(X, y, **quiet)
    with pytest.raises(TypeError, match="labels have dtype <U1"):
        getattr(trained, call)(X, np.full(10, "1"), **quiet)
    getattr(trained, call)(X, np.linspace(0, 1, 10), **quiet)


def test_validation_labels_are_checked_and_other_losses_take_any(trained):
    with pytest.raises(ValueError, match="validation_data: label 2.0"):
        trained.fit(X, Y, validation_data=(X, Y * 2), verbose=0)
    model = dlrm()
    model.compile("sgd", loss="mse", run_eagerly=EAGER)
    assert np.isfinite(model.train_on_batch(X, Y * 5 - 2))


@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_a_batch_without_rows_is_refused(trained, call):
    empty = {name: values[:0] for name, values in X.items()}
    with pytest.raises(ValueError, match=f"{call}: the batch has no rows"):
        getattr(trained, call)(empty, Y[:0])


def test_fit_refuses_wrong_types_of_input():
    for x, words in (
        ({**X, "sparse": X["sparse"].astype("float32")}, "ids must be integers"),
        (X["dense"], "packed batch"),
    ):
        model = dlrm()
        model.compile("sgd", metrics=["auc"])
        with pytest.raises(TypeError, match=words):
            model.fit(x, Y, verbose=0)


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


def test_a_batch_without_rows_predicts_no_rows(trained):
    empty = {name: values[:0] for name, values in X.items()}
    assert trained.predict(empty, verbose=0).shape == (0, 1)


def test_parts_of_models_with_neighbouring_seeds_draw_independently():
    """No kernel of one is a kernel of the other, wherever it stands."""
    models = [DLRM(SCHEMA, 4, [4, 4], [4, 4, 1], seed=seed) for seed in range(4)]
    kernels = [w.ravel()[:4].tobytes() for m in models for w in m.get_weights() if w.ndim == 2]
    assert len(set(kernels)) == len(kernels)


def test_sample_weights_scale_the_gradient(trained):
    """Weights of 2 at half the rate make the same step as weights of 1."""
    ends = []
    for weight in (None, np.full(10, 2.0, "float32")):
        trained.set_weights(trained.initial)
        trained.optimizer.learning_rate = 0.1 if weight is None else 0.05
        trained.train_on_batch(X, Y, sample_weight=weight)
        ends.append(snapshot(trained))
    trained.optimizer.learning_rate = 0.1
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_running_eagerly_makes_the_same_steps(trained):
    eager = dlrm()
    eager.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    trained.set_weights(trained.initial)
    eager.set_weights(trained.initial)
    for model in (trained, eager):
        model.train_on_batch(X, Y)
    for a, b in zip(trained.get_weights(), eager.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no steps_per_execution on torch")
def test_several_steps_an_execution_make_the_same_steps(trained, expected):
    model = dlrm()
    model.compile(keras.optimizers.SGD(0.1), steps_per_execution=2)
    model.initial = trained.initial
    np.testing.assert_allclose(losses(model, X, Y, batch_size=4), expected, rtol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow breaks under XLA")
def test_tensorflow_does_not_compile_the_row_update_with_xla():
    """Compiled, a step with repeated ids ended at other weights. Keras turns jit_compile off and says so."""
    model = dlrm()
    with pytest.warns(UserWarning, match="jit_compile"):
        model.compile("sgd", jit_compile=True)
    assert not model.jit_compile


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


def test_weights_of_the_model_itself_are_saved(tmp_path):
    model = FinalMLP(SCHEMA, embedding_dim=4, deep_mlp=[4], gate_mlp=[3], seed=1)
    for context in model.learned:
        context.assign(keras.ops.ones((1, 4)))  # which no seed gives
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for context in loaded.learned:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(context), 1)


def test_weights_of_a_model_without_dropout_load_into_one_with_it(tmp_path):
    model = dlrm()
    model.save_weights(tmp_path / "w.weights.h5")
    other = dlrm(dropout=0.5, seed=9)
    other.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])


def test_summary_counts_the_tables_as_trainable():
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dlrm().summary(print_fn=lambda line, **_: lines.append(line))
    assert "171" in "".join(lines)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: DLRM(SCHEMA, 4, [6, 5], [5, 1]), ["bottom_mlp=[6, 5]", "embedding_dim=4"]),
        (lambda: DLRM(SCHEMA, 4, [], [5, 1]), ["bottom_mlp=[]", "nothing"]),
        (lambda: DLRM(SCHEMA, 4, [6, 4], [5, 2]), ["top_mlp=[5, 2]", "1"]),
        (lambda: DLRM(SCHEMA, 4, [6, 4], []), ["top_mlp=[]"]),
        (lambda: DLRM(SCHEMA, 0, [6, 0], [1]), ["embedding_dim=0"]),
        (lambda: DLRM(WITHOUT_DENSE, 4, [6, 4], [1]), ["bottom_mlp=[6, 4]", "no dense"]),
        (lambda: dlrm(interaction="sum"), ["'sum'", "dot"]),
        (lambda: dlrm(interaction=PairSum), ["PairSum", "is unknown", "a Keras layer"]),
        (lambda: dlrm(interaction=PairSum(), cross_layers=2), ["cross_layers=2", "'PairSum'"]),
        (lambda: dlrm(interaction=keras.layers.Reshape((4, 2, 2), name="r")), ["Reshape 'r'", "(2, 4, 2, 2)", "(B, n)"]),
        (lambda: dlrm(interaction=keras.layers.Reshape((5,), name="r")), ["Reshape 'r'", "fails for vectors (B, 4, 4)"]),
        (lambda: dlrm(interaction="cat", self_interaction=True), ["self_interaction", "dot"]),
        (lambda: DLRM(SCHEMA, {"C1": 2, "tags": 4, "C3": 4}, [6, 4], [1], first_order=True), ["first order", "one width"]),
        (lambda: FM(SCHEMA, {"C1": 2, "tags": 4, "C3": 4}), ["FM", "one width"]),
        (lambda: NeuMF(SCHEMA, 4), ["NeuMF: it looks at ['C1', 'tags']", "['I1', 'I2', 'C3'] besides"]),
        (lambda: MatrixFactorization(SCHEMA, 4, user="I1"), ["user='I1'", "sparse column", "['C1', 'tags', 'C3']"]),
        (lambda: MatrixFactorization(WITHOUT_DENSE, 4, user="C1", item="C1"), ["['C1', 'C1']", "one column each"]),
        (lambda: FinalMLP(SCHEMA, 4, contexts=[["C9"], []]), ["'C9'", "not a column"]),
        (lambda: FinalMLP(SCHEMA, 4, contexts=[["C1"]]), ["contexts=", "two lists"]),
        (lambda: FinalMLP(SCHEMA, 4, deep_mlp=[5], heads=2), ["5 numbers a row", "heads=2"]),
        (lambda: RankMixer(SCHEMA, 4, tokens=3, token_dim=7), ["token_dim=7", "multiple of tokens=3"]),
        (lambda: RankMixer(SCHEMA, 4, tokens=21), ["tokens=21", "20"]),
        (lambda: DCNv3(Schema(dense=["a"]), 1), ["ExponentialCross", "even number"]),
        (lambda: GDCN(SCHEMA, 4, projection_dim=2), ["GDCN", "projection_dim=2", "no low rank"]),
        (lambda: MaskNet(SCHEMA, 4, structure="both"), ["MaskNet", "'both'", "parallel"]),
        (lambda: DCN(SCHEMA, "paper", first_order=True), ["first order", "'paper'"]),
        (lambda: dlrm(interaction="cross", cross_layers=0), ["cross_layers=0"]),
        (lambda: dlrm(concat_dense=True), ["concat_dense=True", "'cross'", "'dot'"]),
        (lambda: dlrm(WITHOUT_DENSE, interaction="cross", concat_dense=True), ["concat_dense=True", "dense columns"]),
        (lambda: dlrm(concat_dense=1), ["concat_dense=1", "True or False"]),
        (lambda: dlrm(projection_dim=4), ["projection_dim=4", "'cross'", "'dot'"]),
        (lambda: dlrm(projection_dim=None, interaction="cat"), ["projection_dim=None", "'cross'"]),
        (lambda: dlrm(cross_layers=2), ["cross_layers=2", "'cross'", "'dot'"]),
        (lambda: dlrm(self_interaction="yes"), ["self_interaction='yes'", "True or False"]),
        (lambda: dlrm(WITHOUT_SPARSE), ["two feature vectors", "cat"]),
        (lambda: DLRM(Schema(categorical=[Categorical("a")]), 4), ["'a'", "vocabulary_size"]),
        (lambda: FinalMLP(SCHEMA, contexts=["I1", "C1"]), ["contexts=['I1', 'C1']", "two lists of columns"]),
        (lambda: cross(DCN, cross_layers=0), ["DCN", "cross_layers=0"]),
        (lambda: cross(DCNv2, structure="both"), ["DCNv2", "'both'", "parallel"]),
        (lambda: DCN(SCHEMA, "wide"), ["'wide'", "paper"]),
        (lambda: dlrm().compile("adagrad", embedding_optimizer="fast"), ["'fast'", "rowwise_adagrad"]),
        (lambda: dlrm().compile(keras.optimizers.SGD(momentum=0.9)), ["momentum", "embedding_optimizer"]),
        (lambda: dlrm().compile("bogus"), ["optimizer='bogus'", "adagrad"]),
        (lambda: dlrm()({"dense": X["dense"]}), ["'sparse'", "schema.pack"]),
        (lambda: dlrm()({**X, "weights": np.ones((10, 5), "float32")}), ["'weights'", "weighted=True"]),
        (lambda: dlrm()({**X, "extra": X["dense"]}), ["'extra'", "leave it out"]),
        (lambda: dlrm()({**X, "dense": X["dense"][:, :1]}), ["'dense'", "(B, 2)"]),
        (lambda: dlrm()({**X, "sparse": X["sparse"][:, :3]}), ["'sparse'", "(B, 5)"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("optimizer", [None, 3])
def test_what_is_no_optimizer_is_refused(optimizer):
    with pytest.raises(TypeError, match=f"optimizer={optimizer}.* use one of|optimizer=None: give"):
        dlrm().compile(optimizer)


def test_a_batch_that_is_no_dict_is_refused():
    with pytest.raises(TypeError, match="packed batch"):
        dlrm()(X["dense"])


def test_an_interaction_of_ones_own_is_exported_to_onnx(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = MODELS["dlrm own layer alongside dense"].make()
    batch, _ = data(rows=6)
    session = runtime.InferenceSession(str(onnx(model, tmp_path / "m.onnx")))
    types = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32"}
    given = {i.name: batch[i.name].astype(types[i.type]) for i in session.get_inputs()}
    np.testing.assert_allclose(session.run(None, given)[0], model.predict(batch, verbose=0), rtol=1e-5)


OWN = """
import keras

@keras.saving.register_keras_serializable("own")
class Mean(keras.layers.Layer):
    def call(self, vectors):
        return keras.ops.mean(vectors, axis=1)
"""


@pytest.mark.slow
def test_an_interaction_of_ones_own_is_exported_to_a_savedmodel(tmp_path, monkeypatch):
    """The export compares the answers itself."""
    (tmp_path / "own_interaction.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    layer = importlib.import_module("own_interaction").Mean()
    assert (savedmodel(dlrm(interaction=layer), tmp_path / "served") / "saved_model.pb").is_file()


def test_a_class_of_the_program_itself_is_refused_by_name_before_a_savedmodel_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(PairSum, "__module__", "__main__")
    with pytest.raises(ValueError, match="PairSum is defined in the program itself"):
        savedmodel(dlrm(interaction=PairSum()), tmp_path / "served")
