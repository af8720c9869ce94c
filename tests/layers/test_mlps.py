"""BottomMLP and TopMLP: initialisation, what follows the last layer, options, precision, seeds."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_dlrm.layers import BottomMLP, TopMLP

X = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
both = pytest.mark.parametrize("kind", [BottomMLP, TopMLP])


def numpy_forward(mlp, x, activate_last):
    for i, dense in enumerate(mlp.dense_layers):
        kernel, bias = dense.get_weights()
        x = x @ kernel + bias
        if activate_last or i < len(mlp.dense_layers) - 1:
            x = np.maximum(x, 0)
    return x


@both
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_forward_equals_numpy_at_any_batch_size(kind, batch):
    mlp = kind([6, 4], seed=0)
    got = ops.convert_to_numpy(mlp(X[:batch]))
    assert got.shape == (batch, 4) and mlp.compute_output_shape((batch, 7)) == (batch, 4)
    np.testing.assert_allclose(got, numpy_forward(mlp, X[:batch], kind is BottomMLP), rtol=1e-5, atol=1e-6)


def test_the_bottom_mlp_activates_its_last_layer_and_the_top_mlp_does_not():
    bottom, top = BottomMLP([9, 50], seed=0), TopMLP([9, 50], seed=0)
    assert ops.convert_to_numpy(bottom(X)).min() == 0
    assert ops.convert_to_numpy(top(X)).min() < 0


@both
def test_symbolic_call_agrees_with_the_eager_one(kind):
    mlp, symbol = kind([6, 2], seed=0), keras.Input((7,))
    outputs = mlp(symbol)
    assert outputs.shape == (None, 2)
    got = keras.Model(symbol, outputs)(X)
    np.testing.assert_allclose(ops.convert_to_numpy(got), ops.convert_to_numpy(mlp(X)), rtol=1e-6, atol=1e-6)


def test_initial_weights_have_the_references_moments():
    mlp = TopMLP([400, 300], seed=3)
    mlp.build((None, 200))
    inputs = 200
    for dense in mlp.dense_layers:
        kernel, bias = dense.get_weights()
        n = kernel.size
        sd = np.sqrt(2 / (inputs + dense.units))
        assert abs(kernel.mean()) < 5 * sd / np.sqrt(n)
        assert abs(kernel.std() / sd - 1) < 5 / np.sqrt(2 * n)
        # Normal, not uniform or truncated: the fourth moment is three times the squared variance.
        assert abs((kernel**4).mean() / sd**4 - 3) < 5 * np.sqrt(96 / n)
        assert abs(bias.std() / np.sqrt(1 / dense.units) - 1) < 5 / np.sqrt(2 * dense.units)
        inputs = dense.units


@both
def test_equal_seeds_give_equal_weights(kind):
    mlps = [kind([6, 6], seed=5), kind([6, 6], seed=5), kind([6, 6], seed=6), kind([6, 6]), kind([6, 6])]
    for mlp in mlps:
        mlp.build((None, 6))
    for a, b, c, d, e in zip(*(mlp.get_weights() for mlp in mlps), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 0 and np.abs(d - e).max() > 0
    kernels = [layer.get_weights()[0] for layer in mlps[0].dense_layers]
    assert np.abs(kernels[0] - kernels[1]).max() > 0


def test_set_random_seed_fixes_unseeded_layers():
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(9)
        mlp = TopMLP([3])
        mlp.build((None, 2))
        drawn.append(mlp.get_weights()[0])
    np.testing.assert_array_equal(*drawn)


@both
def test_dropout_works_in_training_only(kind):
    mlp = kind([400, 400], dropout=0.25, seed=0)
    plain = kind([400, 400], seed=0)
    np.testing.assert_allclose(ops.convert_to_numpy(mlp(X)), ops.convert_to_numpy(plain(X)), rtol=1e-6, atol=1e-6)
    assert len(mlp.dropouts) == (2 if kind is BottomMLP else 1)
    trained = ops.convert_to_numpy(mlp(X, training=True))
    if kind is BottomMLP:
        alive = ops.convert_to_numpy(plain(X)) > 0
        assert 0 < (trained == 0).mean() - (~alive).mean() < 0.3
    else:
        assert (trained != 0).all() and np.abs(trained - ops.convert_to_numpy(mlp(X))).max() > 1e-3


def test_batch_norm_stands_before_the_activation():
    mlp = BottomMLP([50], batch_norm=True, seed=0)
    mlp.build((None, 7))
    kernel, bias = mlp.dense_layers[0].get_weights()
    x = X @ kernel + bias
    expected = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3), 0)
    np.testing.assert_allclose(ops.convert_to_numpy(mlp(X, training=True)), expected, rtol=1e-4, atol=1e-4)
    # One step of the moving statistics, momentum 0.99 from mean 0 and variance 1.
    np.testing.assert_allclose(mlp.norms[0].moving_mean.numpy(), 0.01 * x.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mlp.norms[0].moving_variance.numpy(), 0.99 + 0.01 * x.var(0), rtol=1e-4)


def test_the_last_top_layer_has_neither_batch_norm_nor_dropout():
    mlp = TopMLP([8, 1], batch_norm=True, dropout=0.5)
    mlp.build((None, 4))
    assert (len(mlp.norms), len(mlp.dropouts)) == (1, 1)
    assert mlp.count_params() == (4 * 8 + 8) + 4 * 8 + (8 + 1)


def test_logits_stay_float32_under_mixed_precision():
    top, bottom = TopMLP([6, 1], dtype="mixed_bfloat16", seed=0), BottomMLP([6, 4], dtype="mixed_bfloat16", seed=0)
    assert keras.backend.standardize_dtype(top(X).dtype) == "float32"
    assert keras.backend.standardize_dtype(bottom(X).dtype) == "bfloat16"
    assert {w.dtype for w in top.weights + bottom.weights} == {"float32"}
    np.testing.assert_allclose(ops.convert_to_numpy(top(X)), numpy_forward(top, X, False), rtol=0.1, atol=0.1)


@both
def test_kernel_l2_is_the_sum_of_squares_of_the_kernels(kind):
    mlp = kind([6, 2], kernel_l2=0.5, seed=0)
    mlp.build((None, 7))
    expected = 0.5 * sum((d.get_weights()[0] ** 2).sum() for d in mlp.dense_layers)
    assert float(ops.convert_to_numpy(sum(mlp.losses))) == pytest.approx(float(expected), rel=1e-5)


@both
@pytest.mark.parametrize("options", [{}, {"activation": "tanh", "dropout": 0.5, "batch_norm": True, "kernel_l2": 0.1}])
def test_config_round_trip_keeps_the_layer(kind, options):
    mlp = kind([6, 2], seed=4, **options)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(mlp))
    assert type(again) is kind and again.get_config() == mlp.get_config()
    np.testing.assert_array_equal(ops.convert_to_numpy(again(X)), ops.convert_to_numpy(mlp(X)))


@both
@pytest.mark.parametrize(
    "options, words",
    [
        ({"units": []}, ["units=[]", "at least one"]),
        ({"units": [3, 0]}, ["units[1]=0", ">= 1"]),
        ({"units": [2.5]}, ["units[0]=2.5", "integer"]),
        ({"units": [True]}, ["units[0]=True"]),
        ({"units": [3], "dropout": 1.0}, ["dropout=1.0", "[0, 1)"]),
    ],
)
def test_bad_options_are_refused(kind, options, words):
    with pytest.raises(ValueError) as caught:
        kind(**options)
    for word in [kind.__name__, *words]:
        assert word in str(caught.value)


def test_an_unknown_input_width_is_refused():
    with pytest.raises(ValueError, match="last dimension"):
        TopMLP([1]).build((None, None))
