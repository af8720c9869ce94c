"""One suite for every interaction: dot, concatenation and cross layers, against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_dlrm.layers import ConcatenationInteraction, CrossLayer, DotInteraction

F, D, N = 4, 3, 6


def dot(x, self_interaction):
    """Pairs one after the other, as the docstring lists them."""
    pairs = [(i, j) for i in range(x.shape[1]) for j in range(i + 1 if self_interaction else i)]
    return np.array([[example[i] @ example[j] for i, j in pairs] for example in x]).reshape(len(x), len(pairs))


def cross(layer, x0, x):
    weights = dict(zip((v.name for v in layer.weights), layer.get_weights(), strict=True))
    out = np.empty_like(x0)
    for row in range(len(x0)):
        if layer.kind == "vector":
            out[row] = x0[row] * float(x[row] @ weights["kernel"][:, 0]) + weights["bias"] + x[row]
        else:
            down = weights["down"] if layer.projection_dim else np.eye(x.shape[1])
            out[row] = x0[row] * (weights["kernel"].T @ (down.T @ x[row]) + weights["bias"]) + x[row]
    return out


# name → (layer, shapes of its inputs without B, width of its output, NumPy of the same)
CASES = {
    "dot": (lambda **k: DotInteraction(**k), [(F, D)], 6, lambda _, x: dot(x, False)),
    "dot with self": (lambda **k: DotInteraction(self_interaction=True, **k), [(F, D)], 10, lambda _, x: dot(x, True)),
    "concatenation": (lambda **k: ConcatenationInteraction(**k), [(F, D)], 12, lambda _, x: x.reshape(len(x), F * D)),
    "cross vector": (lambda **k: CrossLayer("vector", seed=1, **k), [(N,), (N,)], N, cross),
    "cross matrix": (lambda **k: CrossLayer(seed=1, **k), [(N,), (N,)], N, cross),
    "cross low rank": (lambda **k: CrossLayer(projection_dim=2, seed=1, **k), [(N,), (N,)], N, cross),
}
every_interaction = pytest.mark.parametrize("name", CASES)


def inputs(shapes, batch, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(batch, *shape)).astype("float32") for shape in shapes]


def made(name, **options):
    make, shapes, width, reference = CASES[name]
    layer = make(**options)
    layer(*inputs(shapes, 2))
    for weight in layer.weights:  # a bias of zeros would hide a missing one
        weight.assign(np.random.default_rng(7).normal(size=weight.shape))
    return layer, shapes, width, reference


@every_interaction
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_values_equal_numpy_at_any_batch_size(name, batch):
    layer, shapes, width, reference = made(name)
    x = inputs(shapes, batch)
    got = ops.convert_to_numpy(layer(*x))
    assert got.shape == (batch, width) and got.dtype == np.float32
    np.testing.assert_allclose(got, reference(layer, *x), rtol=1e-5, atol=1e-5)


@every_interaction
def test_symbolic_call_agrees_with_the_eager_one(name):
    layer, shapes, width, _ = made(name)
    symbols = [keras.Input(shape) for shape in shapes]
    outputs = layer(*symbols)
    assert outputs.shape == (None, width)
    assert tuple(layer.compute_output_shape(*[(7, *shape) for shape in shapes])) == (7, width)
    x = inputs(shapes, 3)
    got = ops.convert_to_numpy(keras.Model(symbols, outputs)(x))
    np.testing.assert_allclose(got, ops.convert_to_numpy(layer(*x)), rtol=1e-6, atol=1e-6)


@every_interaction
def test_config_round_trip_keeps_the_layer(name):
    layer, shapes, _, _ = made(name)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    x = inputs(shapes, 3)
    again(*x)
    again.set_weights(layer.get_weights())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(ops.convert_to_numpy(again(*x)), ops.convert_to_numpy(layer(*x)))


@every_interaction
def test_mixed_precision_computes_in_bfloat16_on_float32_weights(name):
    layer, shapes, width, reference = made(name, dtype="mixed_bfloat16")
    x = inputs(shapes, 5)
    got = layer(*x)
    assert keras.backend.standardize_dtype(got.dtype) == "bfloat16"
    assert {w.dtype for w in layer.weights} <= {"float32"}
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.cast(got, "float32")), reference(layer, *x), rtol=0.05, atol=0.15
    )


def test_dot_lists_the_lower_triangle_row_by_row():
    # Feature i is i + 2 times a unit vector: the product of i and j is (i + 2)(j + 2).
    x = np.arange(2, 6, dtype="float32").reshape(1, 4, 1)
    assert ops.convert_to_numpy(DotInteraction()(x)).tolist() == [[6, 8, 12, 10, 15, 20]]
    assert ops.convert_to_numpy(DotInteraction(True)(x)).tolist() == [[4, 6, 9, 8, 12, 16, 10, 15, 20, 25]]


def test_dot_of_one_vector_is_empty_without_self_interaction():
    x = np.ones((2, 1, 3), "float32")
    assert tuple(DotInteraction()(x).shape) == (2, 0)
    assert ops.convert_to_numpy(DotInteraction(True)(x)).tolist() == [[3], [3]]


def test_dot_stacks_a_list_of_vectors_in_order():
    first, rest = inputs([(D,), (F, D)], 5)
    got = DotInteraction()([first, rest])
    np.testing.assert_allclose(
        ops.convert_to_numpy(got), dot(np.concatenate([first[:, None], rest], 1), False), rtol=1e-5, atol=1e-5
    )
    assert DotInteraction().compute_output_shape([(5, D), (5, F, D)]) == (5, 10)


def test_dot_refuses_a_matrix():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(B, F, D\)"):
        DotInteraction()(np.ones((2, 3), "float32"))


def test_concatenation_flattens_a_list_in_order():
    first, rest = inputs([(2,), (F, D)], 5)
    got = ConcatenationInteraction()([first, rest])
    np.testing.assert_array_equal(ops.convert_to_numpy(got), np.concatenate([first, rest.reshape(5, -1)], 1))
    assert ConcatenationInteraction().compute_output_shape([(5, 2), (5, F, D)]) == (5, 2 + F * D)


@pytest.mark.parametrize("options", [{"kind": "vector"}, {}, {"projection_dim": 2}], ids=str)
def test_cross_of_one_input_crosses_it_with_itself(options):
    (x,) = inputs([(N,)], 3)
    layer = CrossLayer(seed=0, **options)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(layer(x, x)))


@pytest.mark.parametrize(
    "options, count", [({"kind": "vector"}, 2 * N), ({}, N * N + N), ({"projection_dim": 2}, 2 * N * 2 + N)], ids=str
)
def test_cross_parameter_counts(options, count):
    layer = CrossLayer(**options)
    layer.build((None, N))
    assert layer.count_params() == count


def test_cross_kernel_l2_adds_the_squares_of_the_kernels_only():
    layer = CrossLayer(projection_dim=2, kernel_l2=0.5, seed=0)
    layer.build((None, N))
    layer.bias.assign(np.full(N, 9.0))
    expected = 0.5 * sum((ops.convert_to_numpy(w) ** 2).sum() for w in (layer.down, layer.kernel))
    assert float(ops.convert_to_numpy(sum(layer.losses))) == pytest.approx(float(expected), rel=1e-5)


def test_cross_seeds_give_equal_weights():
    layers = [CrossLayer(projection_dim=3, seed=5), CrossLayer(projection_dim=3, seed=5), CrossLayer(projection_dim=3)]
    for layer in layers:
        layer.build((None, N))
    for a, b, c in zip(*(layer.get_weights()[:2] for layer in layers), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 0


@pytest.mark.parametrize(
    "options, words",
    [
        ({"kind": "tensor"}, ["'tensor'", "vector"]),
        ({"kind": "vector", "projection_dim": 2}, ["projection_dim=2", "matrix"]),
        ({"projection_dim": 0}, ["projection_dim=0", ">= 1"]),
    ],
)
def test_bad_cross_options_are_refused(options, words):
    with pytest.raises(ValueError) as caught:
        CrossLayer(**options)
    for word in words:
        assert word in str(caught.value)
