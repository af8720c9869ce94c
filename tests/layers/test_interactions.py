"""Interactions: the order of their pairs, one vector, lists of vectors, crosses of one input."""

import numpy as np
import pytest
from helpers import numpy_layers
from helpers.calls import D, F, N, inputs, numpy

from keras_dlrm.layers import ConcatenationInteraction, CrossLayer, DotInteraction


def test_dot_lists_the_lower_triangle_row_by_row():
    # Feature i is i + 2 times a unit vector: the product of i and j is (i + 2)(j + 2).
    x = np.arange(2, 6, dtype="float32").reshape(1, 4, 1)
    assert numpy(DotInteraction()(x)).tolist() == [[6, 8, 12, 10, 15, 20]]
    assert numpy(DotInteraction(True)(x)).tolist() == [[4, 6, 9, 8, 12, 16, 10, 15, 20, 25]]


def test_dot_of_one_vector_is_empty_without_self_interaction():
    x = np.ones((2, 1, 3), "float32")
    assert tuple(DotInteraction()(x).shape) == (2, 0)
    assert numpy(DotInteraction(True)(x)).tolist() == [[3], [3]]


def test_interactions_take_a_list_of_vectors_in_order():
    first, rest = inputs([(D,), (F, D)], 5)
    stacked = np.concatenate([first[:, None], rest], 1)
    layer = DotInteraction()
    np.testing.assert_allclose(numpy(layer([first, rest])), numpy_layers.dot(layer, stacked), rtol=1e-5, atol=1e-5)
    assert layer.compute_output_shape([(5, D), (5, F, D)]) == (5, 10)
    first = first[:, :2]  # of any width
    layer = ConcatenationInteraction()
    np.testing.assert_array_equal(numpy(layer([first, rest])), np.concatenate([first, rest.reshape(5, -1)], 1))
    assert layer.compute_output_shape([(5, 2), (5, F, D)]) == (5, 2 + F * D)


@pytest.mark.parametrize(
    "options, count", [({"kind": "vector"}, 2 * N), ({}, N * N + N), ({"projection_dim": 2}, 2 * N * 2 + N)], ids=str
)
def test_cross_of_one_input_crosses_it_with_itself(options, count):
    (x,) = inputs([(N,)], 3)
    layer = CrossLayer(seed=0, **options)
    np.testing.assert_array_equal(numpy(layer(x)), numpy(layer(x, x)))
    assert layer.count_params() == count
