"""The gRPC services, through tensorflow-serving-api's own stubs."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from helpers.saved_models import predict_request, probability
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    regression_pb2,
)

pytestmark = pytest.mark.neutral

DENSE, SPARSE = np.array([[1, 2]], np.float32), np.array([[7, 1, -1]], np.int64)


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


@pytest.fixture
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request_of(inputs, signature="", name="clicks", **version):
    request = predict_request(inputs, signature, name)
    if "number" in version:
        request.model_spec.version.value = version["number"]
    if "label" in version:
        request.model_spec.version_label = version["label"]
    return request


def refused(call, request):
    """Code and message of a call that fails; the message is one sentence."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    message = caught.value.details()
    assert message.endswith(".") and "\n" not in message and len(message) < 500, message
    return caught.value.code().name, message


@pytest.mark.parametrize("rows", [0, 1, 7, 300])
def test_any_number_of_rows_gives_the_models_answer(stub, rows):
    rng = np.random.default_rng(rows)
    dense = rng.normal(size=(rows, 2)).astype(np.float32)
    sparse = rng.integers(-1, 10, (rows, 3))
    response = stub.Predict(request_of({"dense": dense, "sparse": sparse}), timeout=30)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("clicks", 2, "serving_default")
    found = tf.make_ndarray(response.outputs["probability"])
    assert found.shape == (rows, 1) and found.dtype == np.float32
    np.testing.assert_allclose(found, probability(dense, sparse, 1.0), rtol=1e-5)
    assert len(response.outputs["probability"].float_val) == rows, "clients read float_val"


@pytest.mark.parametrize(("version", "bias"), [({"number": 1}, 0), ({"label": "stable"}, 0), ({"label": "canary"}, 1)])
def test_versions_and_labels_choose_the_model(stub, version, bias):
    response = stub.Predict(request_of({"dense": DENSE, "sparse": SPARSE}, **version), timeout=30)
    np.testing.assert_allclose(response.outputs["probability"].float_val, probability(DENSE, SPARSE, bias)[0], rtol=1e-6)


def test_strings_bools_and_a_filter_of_outputs(stub):
    inputs = {"city": [b"Oslo", b"Bonn"], "tags": [[b"a", b"b"], [b"", b""]], "price": np.array([np.nan, 2], np.float32)}
    request = request_of(inputs, "raw")
    response = stub.Predict(request, timeout=30)
    assert set(response.outputs) == {"probability", "city_bytes", "seen"}
    assert list(response.outputs["city_bytes"].string_val) == [b"Oslo", b"Bonn"]
    assert list(response.outputs["seen"].bool_val) == [True, False]
    request.output_filter.append("seen")
    assert set(stub.Predict(request, timeout=30).outputs) == {"seen"}


def test_a_nan_that_the_model_takes_for_missing_is_no_error(stub):
    inputs = {"city": [b"Oslo"], "tags": [[b""]], "price": np.array([np.nan], np.float32)}
    response = stub.Predict(request_of(inputs, "raw"), timeout=30)
    np.testing.assert_allclose(response.outputs["probability"].float_val, 1 / (1 + np.exp(-2)), rtol=1e-6)


def test_examples_are_regressed_and_classified(stub):
    expected = 1 / (1 + np.exp(-np.array([2.5, 0.5])))
    regression = regression_pb2.RegressionRequest()
    regression.model_spec.name, regression.model_spec.signature_name = "clicks", "regress"
    for price, city in ((0.5, b"Oslo"), (-0.5, b"")):
        example = regression.input.example_list.examples.add()
        example.features.feature["price"].float_list.value.append(price)
        example.features.feature["city"].bytes_list.value.append(city)
    values = [r.value for r in stub.Regress(regression, timeout=30).result.regressions]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    classification = classification_pb2.ClassificationRequest(input=regression.input)
    classification.model_spec.name, classification.model_spec.signature_name = "clicks", "classify"
    rows = stub.Classify(classification, timeout=30).result.classifications
    assert [c.label for c in rows[0].classes] == ["no", "yes"]
    np.testing.assert_allclose([row.classes[1].score for row in rows], expected, rtol=1e-6)
    regression.input.example_list.Clear()
    regression.input.example_list.SetInParent()
    assert len(stub.Regress(regression, timeout=30).result.regressions) == 0
    regression.input.ClearField("example_list")
    code, message = refused(stub.Regress, regression)
    assert (code, "no input" in message) == ("INVALID_ARGUMENT", True)
    regression.model_spec.signature_name = "classify"
    assert refused(stub.Regress, regression)[0] == "INVALID_ARGUMENT"


def test_metadata_is_packed_as_signature_defs(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "clicks"
    response = stub.GetModelMetadata(request, timeout=30)
    assert response.model_spec.version.value == 2
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    inputs = signatures.signature_def["serving_default"].inputs
    assert {name: tf.as_dtype(info.dtype).name for name, info in inputs.items()} == {"dense": "float32", "sparse": "int64"}
    request.metadata_field[:] = ["other"]
    code, message = refused(stub.GetModelMetadata, request)
    assert code == "INVALID_ARGUMENT" and "'other'" in message


def test_model_status(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "clicks"
    found = stub.GetModelStatus(request, timeout=30).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert [(s.version, s.state, s.status.error_code) for s in found] == [(2, available, 0), (1, available, 0)]
    request.model_spec.name = "else"
    code, message = refused(stub.GetModelStatus, request)
    assert code == "NOT_FOUND" and "'else'" in message and "'clicks'" in message


WRONG = {
    "another dtype": ({"dense": DENSE, "sparse": SPARSE.astype(np.int32)}, {}, "'sparse' has DT_INT32; it must be DT_INT64"),
    "ids as float": ({"dense": DENSE, "sparse": SPARSE.astype(np.float32)}, {}, "'sparse' has DT_FLOAT"),
    "double": ({"dense": DENSE.astype(float), "sparse": SPARSE}, {}, "'dense' has DT_DOUBLE; it must be DT_FLOAT"),
    "missing": ({"dense": DENSE}, {}, "'sparse' is missing"),
    "unknown": ({"dense": DENSE, "sparse": SPARSE, "extra": DENSE}, {}, "unknown input 'extra'"),
    "another width": ({"dense": DENSE[:, :1], "sparse": SPARSE}, {}, "(1, 1); it must be (?, 2)"),
    "another rank": ({"dense": DENSE[0], "sparse": SPARSE}, {}, "(2,); it must be (?, 2)"),
    "other rows": ({"dense": np.repeat(DENSE, 2, 0), "sparse": np.repeat(SPARSE, 3, 0)}, {}, "'serving_default' refuses"),
    "NaN": ({"dense": DENSE * np.nan, "sparse": SPARSE}, {}, "'dense' has NaN or infinity"),
    "no such signature": ({}, {"signature": "other"}, "no signature 'other'; it has 'classify'"),
    "no such label": ({}, {"label": "blue"}, "no version label 'blue'; it has 'canary', 'stable'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_request_that_does_not_fit_is_an_invalid_argument_in_one_sentence(stub, name):
    inputs, options, phrase = WRONG[name]
    code, message = refused(stub.Predict, request_of(inputs, **options))
    assert code == "INVALID_ARGUMENT"
    assert phrase in message
    assert stub.Predict(request_of({"dense": DENSE, "sparse": SPARSE}), timeout=30)


@pytest.mark.parametrize(("options", "phrase"), [({"name": "x"}, "model 'x'"), ({"number": 3}, "no version 3"),
                                                 ({"name": ""}, "names no model")])  # fmt: skip
def test_what_is_not_there_is_not_found(stub, options, phrase):
    code, message = refused(stub.Predict, request_of({}, **options))
    assert code == ("INVALID_ARGUMENT" if options == {"name": ""} else "NOT_FOUND")
    assert phrase in message


def test_tensors_that_lie_about_their_size_cost_nothing(stub):
    request = request_of({"dense": DENSE, "sparse": SPARSE})
    tensor = request.inputs["dense"]
    whole = tensor.tensor_content
    for shape in ([2**40, 2], [2**62, 2**62], [-1, 2], [3, 2]):
        del tensor.tensor_shape.dim[:]
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
        assert refused(stub.Predict, request)[0] == "INVALID_ARGUMENT"
    tensor.ClearField("tensor_content")
    tensor.float_val.extend([1.0] * 7)
    assert "7 values for 6 elements" in refused(stub.Predict, request)[1]
    del tensor.float_val[1:]
    del request.inputs["sparse"].tensor_shape.dim[:]
    request.inputs["sparse"].CopyFrom(tf.make_tensor_proto(np.repeat(SPARSE, 3, 0)))
    found = stub.Predict(request, timeout=30).outputs["probability"].float_val
    np.testing.assert_allclose(found, probability(np.ones((3, 2)), np.repeat(SPARSE, 3, 0), 1.0)[:, 0], rtol=1e-6)
    assert len(whole) == 8


def test_a_request_beyond_the_limit_is_refused(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request_of({"dense": np.zeros((2_000_000, 2), np.float32), "sparse": SPARSE}), timeout=30)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def tensor_of(dtype, sizes, content, floats, longs, strings):
    tensor = TensorProto(
        dtype=dtype,
        tensor_content=content,
        float_val=floats,
        int64_val=longs,
        string_val=strings,
        bool_val=[True],
        half_val=[1],
    )
    tensor.tensor_shape.SetInParent()
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


TENSORS = st.builds(
    tensor_of,
    st.sampled_from([0, 1, 2, 3, 7, 8, 9, 10, 14, 19, 99]),
    st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**62]), max_size=4),
    st.binary(max_size=24),
    st.lists(st.floats(width=32), max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    st.lists(st.binary(max_size=3), max_size=3),
)


@pytest.mark.slow
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.fixed_dictionaries({"dense": TENSORS, "sparse": TENSORS})
    | st.fixed_dictionaries({"city": TENSORS, "tags": TENSORS, "price": TENSORS})
    | st.dictionaries(st.text(max_size=4), TENSORS, max_size=2),
    signature=st.sampled_from(["", "serving_default", "raw", "rank", "regress", "\x00", "é"]),
)
def test_any_tensors_get_an_answer_or_an_invalid_argument(stub, tensors, signature):
    try:
        stub.Predict(predict_request(tensors, signature), timeout=30)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        assert error.details().endswith(".")


def test_bytes_that_are_no_request_do_no_harm(channel, stub):
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError):
        call(b"\xff\xff\xff", timeout=30)
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tensorflow.serving.PredictionService/MultiInference")(b"", timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "the stand-in has no MultiInference; ask with Classify and Regress."
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")(b"", timeout=30)
    assert "change the file of --config" in caught.value.details()
    assert stub.Predict(request_of({"dense": DENSE, "sparse": SPARSE}), timeout=30)
