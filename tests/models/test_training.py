"""Training and evaluation of one model: data of any kind, labels and weights, ways to run a step."""

import keras
import numpy as np
import pytest
from helpers.calls import EAGER
from helpers.numpy_models import bce
from helpers.zoo import X, Y, dlrm, numpy_forward

from keras_dlrm.metrics import NormalizedEntropy

BACKEND = keras.backend.backend()


def snapshot(model):
    return [w.copy() for w in model.get_weights()]


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


def test_a_batch_without_rows_predicts_no_rows(trained):
    empty = {name: values[:0] for name, values in X.items()}
    assert trained.predict(empty, verbose=0).shape == (0, 1)


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
