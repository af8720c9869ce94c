"""Arrays on the wire: what goes in comes out, and TensorFlow's own functions agree."""

import math

import numpy as np
import orjson
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tensorflow.core.framework.tensor_pb2 import TensorProto

from keras_dlrm.serving.wire.errors import ServingError
from keras_dlrm.serving.wire.json_tensors import array_from_json, outputs_to_json
from keras_dlrm.serving.wire.tensors import DTYPES, Tensor, fill_proto, from_proto

pytestmark = pytest.mark.neutral

NUMERIC = {number: entry for number, entry in DTYPES.items() if entry.numpy.kind != "O"}
SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.sampled_from(sorted(NUMERIC)).flatmap(lambda n: npst.arrays(NUMERIC[n].numpy, SHAPES))


def strings(shape, seed=0):
    array = np.empty(shape, object)
    array.ravel()[:] = [b"\xff", b"", "Å".encode()][seed % 3] if array.size else None
    return array


def test_the_numbers_of_the_dtypes_are_tensorflows():
    for number, entry in DTYPES.items():
        assert tf.as_dtype(number).as_datatype_enum == number
        assert np.dtype(tf.as_dtype(number).as_numpy_dtype) == entry.numpy
        assert entry.field in TensorProto.DESCRIPTOR.fields_by_name


@given(array=ARRAYS)
def test_arrays_are_read_as_tensorflow_writes_them(array):
    found = from_proto("x", tf.make_tensor_proto(array), 10**6)
    assert found.dtype == array.dtype and found.shape == array.shape
    np.testing.assert_array_equal(found, array)


@given(array=ARRAYS)
def test_arrays_are_written_as_tensorflow_reads_them(array):
    proto = TensorProto()
    fill_proto(proto, array)
    if array.size:  # TensorFlow's function makes an empty array of its own shape
        np.testing.assert_array_equal(tf.make_ndarray(proto), array)
    again = from_proto("x", proto, 10**6)
    assert again.dtype == array.dtype and again.shape == array.shape
    np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 2)])
def test_strings_travel_both_ways(shape):
    array = strings(shape, 2)
    proto = TensorProto()
    fill_proto(proto, array)
    assert from_proto("x", proto, 10**6).tolist() == array.tolist()
    assert from_proto("x", tf.make_tensor_proto(array.tolist(), tf.string, shape), 10**6).tolist() == array.tolist()


def test_fewer_values_than_elements_repeat_the_last_one():
    for values, expected in (([], [0, 0, 0]), ([5.0], [5, 5, 5]), ([1.0, 2.0], [1, 2, 2])):
        proto = TensorProto(dtype=1, float_val=values)
        proto.tensor_shape.dim.add(size=3)
        assert from_proto("x", proto, 100).tolist() == expected


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (TensorProto(dtype=8), "input 'x' has dtype 8, which is not served."),
        (TensorProto(), "input 'x' has dtype 0, which is not served."),
        (TensorProto(dtype=3, int_val=[1, 2]), "input 'x' has 2 values for 1 elements of shape ()."),
        (TensorProto(dtype=6, int_val=[300]), "input 'x' has a value that DT_INT8 cannot hold."),
        (TensorProto(dtype=9, int_val=[7]), "input 'x' is DT_INT64, whose values are in int64_val, but it has int_val."),
        (TensorProto(dtype=7, tensor_content=b"x"), "strings travel in string_val, not in tensor_content."),
        (TensorProto(dtype=1, tensor_content=b"x"), "1 bytes of tensor_content, but DT_FLOAT of shape () takes 4."),
    ],
)
def test_what_is_no_tensor_is_refused(proto, message):
    with pytest.raises(ServingError) as caught:
        from_proto("x", proto, 10**6)
    assert message in str(caught.value)


@pytest.mark.parametrize(("shape", "message"), [((0, 2**62), "more than the 1000000 bytes"), ((1,) * 70, "has 70 dim")])
def test_shapes_that_numpy_cannot_hold_are_refused_though_they_are_small(shape, message):
    proto = TensorProto(dtype=1)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(ServingError, match=message):
        from_proto("x", proto, 10**6)


@given(array=npst.arrays(np.int64, npst.array_shapes(min_dims=2, max_dims=2, max_side=5)))
def test_integers_of_64_bits_pass_through_json_unharmed(array):
    text = orjson.dumps(outputs_to_json({"ids": array}, rows=True), option=orjson.OPT_SERIALIZE_NUMPY)
    found = array_from_json(Tensor("ids", 9, (-1, array.shape[1]), ""), orjson.loads(text)["predictions"])
    np.testing.assert_array_equal(found, array)


@given(array=npst.arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_floats_of_32_bits_pass_through_json_unharmed(array):
    text = orjson.dumps(outputs_to_json({"x": array}, rows=False), option=orjson.OPT_SERIALIZE_NUMPY)
    np.testing.assert_array_equal(array_from_json(Tensor("x", 1, (-1, 2), ""), orjson.loads(text)["outputs"]), array)


NESTED = st.recursive(st.integers(-5, 5), lambda inner: st.lists(inner, max_size=3), max_leaves=10)


@given(value=NESTED)
def test_lists_become_the_array_that_numpy_makes_of_them_or_an_error(value):
    try:
        expected = np.array(value, np.int64)
    except ValueError:  # ragged
        with pytest.raises(ServingError, match="ragged|mixes"):
            array_from_json(Tensor("x", 9, None, ""), value)
        return
    found = array_from_json(Tensor("x", 9, None, ""), value)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_outputs_without_common_rows_can_only_be_had_in_columns():
    outputs = {"a": np.zeros(2), "b": np.zeros(())}
    with pytest.raises(ServingError, match="no common rows"):
        outputs_to_json(outputs, rows=True)
    assert math.isclose(outputs_to_json(outputs, rows=False)["outputs"]["b"], 0)
