"""MLPs: activations, dropout, batch norm; seeds and penalties of everything that has kernels."""

import keras
import numpy as np
import pytest
from helpers.calls import N, numpy
from keras import ops

from keras_dlrm.layers import BottomMLP, CrossLayer, TopMLP

KERNELS = {
    "bottom MLP": lambda **k: BottomMLP([N, N], **k),
    "top MLP": lambda **k: TopMLP([N, N], **k),
    "cross layer": lambda **k: CrossLayer(projection_dim=3, **k),
}
every_kernel = pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)


def built(layer, width=N):
    layer.build((None, width))
    return layer


def kernels_of(layer):
    return [w for v, w in zip(layer.weights, layer.get_weights(), strict=True) if len(v.shape) == 2]


@every_kernel
def test_equal_seeds_give_equal_weights(make):
    layers = [built(make(seed=5)), built(make(seed=5)), built(make(seed=6)), built(make()), built(make())]
    for a, b, c, d, e in zip(*(layer.get_weights() for layer in layers), strict=True):
        np.testing.assert_array_equal(a, b)
        if a.any():  # a cross layer's bias begins at zero
            assert np.abs(a - c).max() > 0 and np.abs(d - e).max() > 0
    first, second = kernels_of(layers[0])
    assert first.shape != second.shape or np.abs(first - second).max() > 0


@every_kernel
def test_kernel_l2_is_the_sum_of_squares_of_the_kernels_only(make):
    layer = built(make(kernel_l2=0.5, seed=0))
    for weight in layer.weights:
        if len(weight.shape) == 1:
            weight.assign(np.full(weight.shape, 9.0))
    expected = 0.5 * sum((kernel**2).sum() for kernel in kernels_of(layer))
    assert float(ops.convert_to_numpy(sum(layer.losses))) == pytest.approx(float(expected), rel=1e-5)


def test_set_random_seed_fixes_unseeded_layers():
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(9)
        drawn.append(built(TopMLP([3])).get_weights()[0])
    np.testing.assert_array_equal(*drawn)


# -- MLPs ------------------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")


def test_the_bottom_mlp_activates_its_last_layer_and_the_top_mlp_does_not():
    bottom, top = BottomMLP([9, 50], seed=0), TopMLP([9, 50], seed=0)
    assert numpy(bottom(X)).min() == 0
    assert numpy(top(X)).min() < 0


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


@pytest.mark.parametrize("kind", [BottomMLP, TopMLP])
def test_dropout_works_in_training_only(kind):
    mlp = kind([400, 400], dropout=0.25, seed=0)
    plain = kind([400, 400], seed=0)
    np.testing.assert_allclose(numpy(mlp(X)), numpy(plain(X)), rtol=1e-6, atol=1e-6)
    assert len(mlp.dropouts) == (2 if kind is BottomMLP else 1)
    trained = numpy(mlp(X, training=True))
    if kind is BottomMLP:
        alive = numpy(plain(X)) > 0
        assert 0 < (trained == 0).mean() - (~alive).mean() < 0.3
    else:
        assert (trained != 0).all() and np.abs(trained - numpy(mlp(X))).max() > 1e-3


def test_batch_norm_stands_before_the_activation():
    mlp = BottomMLP([50], batch_norm=True, seed=0)
    mlp.build((None, 7))
    kernel, bias = mlp.dense_layers[0].get_weights()
    x = X @ kernel + bias
    expected = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3), 0)
    np.testing.assert_allclose(numpy(mlp(X, training=True)), expected, rtol=1e-4, atol=1e-4)
    # One step of the moving statistics, momentum 0.99 from mean 0 and variance 1.
    np.testing.assert_allclose(mlp.norms[0].moving_mean.numpy(), 0.01 * x.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mlp.norms[0].moving_variance.numpy(), 0.99 + 0.01 * x.var(0), rtol=1e-4)


def test_the_last_top_layer_has_neither_batch_norm_nor_dropout():
    mlp = TopMLP([8, 1], batch_norm=True, dropout=0.5)
    mlp.build((None, 4))
    assert (len(mlp.norms), len(mlp.dropouts)) == (1, 1)
    assert mlp.count_params() == (4 * 8 + 8) + 4 * 8 + (8 + 1)


@pytest.mark.slow
def test_the_products_of_an_mlp_are_quantized_as_keras_does():
    mlp = TopMLP([8, 1], seed=0)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    before = ops.convert_to_numpy(mlp(x))
    for dense in mlp.dense_layers:
        dense.quantize("int8")
    assert {dense.quantization_mode for dense in mlp.dense_layers} == {"int8"}
    np.testing.assert_allclose(ops.convert_to_numpy(mlp(x)), before, atol=0.05)
