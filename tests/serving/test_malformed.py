"""Requests that make no sense: always a 4xx with one sentence, and the server continues."""

import http.client
import json
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.neutral

ROW = {"dense": [1.0, 2.0], "sparse": [7, 1, -1]}
RAW = {"city": "Oslo", "tags": ["a"], "price": 1.0}


def one(row):
    return {"instances": [row]}


WRONG = {
    "empty": (b"", "no body"),
    "blank": (b"  ", "no body"),
    "no JSON": (b"{nonsense", "not JSON"),
    "not UTF-8": (b'{"instances": "\xff\xfe"}', "not JSON"),
    "NaN": (b'{"instances": [{"dense": [NaN, 1], "sparse": [1, 1, 1]}]}', "NaN and Infinity are no JSON"),
    "Infinity": (b'{"instances": [{"dense": [-Infinity, 1], "sparse": [1, 1, 1]}]}', "NaN and Infinity are no JSON"),
    "deep": (b'{"instances": ' + b"[" * 100_000, "not JSON"),
    "infinite": (b'{"signature_name": "raw", "instances": [{"city": "a", "tags": [], "price": Infinity}]}', "no JSON"),
    "NaN for a text": (b'{"signature_name": "raw", "instances": [{"city": NaN, "tags": [], "price": 1}]}', None),
    "half a surrogate pair": (
        b'{"signature_name": "raw", "instances": [{"city": "\\ud800", "tags": [], "price": NaN}]}',
        "not JSON",
    ),
    "deep alongside NaN": (b'{"inputs": NaN, "x": ' + b"[" * 100_000, "not JSON"),
    "key twice": (b'{"instances": [], "instances": []}', "the key 'instances' twice"),
    "key twice in a row": (
        b'{"instances": [{"dense": [1, 2], "sparse": [1, 1, 1], "dense": [3, 4]}]}',
        "the key 'dense' twice",
    ),
    "key twice in a value": (
        b'{"signature_name": "raw", "instances": [{"city": {"b64": "AA==", "b64": ""}, "tags": []}]}',
        "'b64' twice",
    ),
    "key twice, one escaped": (b'{"instances": [{"dense": [1, 2], "d\\u0065nse": [3, 4]}]}', "the key 'dense' twice"),
    "more than is allowed when filled up": (
        b'{"signature_name": "raw", "instances": [{"city": "", "tags": ["a"]}'
        + b', {"city": "", "tags": []}' * 50_000
        + b', {"city": "", "tags": ['
        + b'"",' * 100_000
        + b'""]}]}',
        "values allowed",
    ),
    "list": ([1], "must be a JSON object"),
    "neither": ({}, "one of 'instances'"),
    "both": ({"instances": [], "inputs": []}, "not both"),
    "unknown key": ({"instances": [], "dtype": 1}, "unknown key 'dtype'"),
    "signature is not a string": ({"signature_name": 3, "instances": []}, "'signature_name' must be a string"),
    "unknown signature": ({"signature_name": "x", "instances": []}, "no signature 'x'; it has 'classify'"),
    "rows no list": ({"instances": {"a": 1}}, "must be a list of rows"),
    "rows without names": ({"instances": [[1, 2]]}, "an object of 'dense' DT_FLOAT (?, 2), 'sparse' DT_INT64 (?, 3)"),
    "mixed rows": ({"instances": [ROW, [1]]}, "mixes rows"),
    "missing": (one({"dense": [1, 2]}), "row 0 of 'instances': signature 'serving_default': input 'sparse' is missing"),
    "unknown": (one({**ROW, "more": 1}), "unknown input 'more'"),
    "second row": ({"instances": [ROW, {"dense": [1, 2]}]}, "row 1 of 'instances'"),
    "ragged": ({"inputs": {"dense": [[1, 2], [3]], "sparse": [[1, 2, 3]] * 2}}, "'dense' is ragged: lists of 1 and of 2"),
    "ragged rows": ({"instances": [ROW, {**ROW, "dense": [1]}]}, "ragged"),
    "too wide": (one({**ROW, "dense": [1, 2, 3]}), "shape (1, 3); it must be (?, 2)"),
    "too flat": (one({**ROW, "dense": 1}), "shape (1,); it must be (?, 2)"),
    "too deep": (one({**ROW, "dense": [[1], [2]]}), "shape (1, 2, 1)"),
    "float id": (one({**ROW, "sparse": [1.0, 2, 3]}), "'sparse' has a decimal number, 1.0; it must be DT_INT64"),
    "text id": (one({**ROW, "sparse": ["7", 2, 3]}), "a string, '7'"),
    "true": (one({**ROW, "sparse": [True, 2, 3]}), "true or false, True"),
    "null": (one({**ROW, "dense": [None, 1]}), "null"),
    "object": (one({**ROW, "dense": [{"b64": "AA=="}, 1]}), "an object"),
    "huge id": (one({**ROW, "sparse": [2**63, 2, 3]}), "cannot hold"),
    "huger id": (one({**ROW, "sparse": [10**30, 2, 3]}), "'sparse'"),
    "huge number": (one({**ROW, "dense": [1e39, 1]}), "'dense' has a number that DT_FLOAT cannot hold"),
    "overflow inside": (one({**ROW, "dense": [3e38, -3e38]}), None),
    "number that lost digits": ({"signature_name": "raw", **one({**RAW, "city": 2**70})}, "send so large a number as a string"),
    "no base64": ({"signature_name": "raw", **one({**RAW, "city": {"b64": "%%"}})}, "not base64"),
    "odd object": ({"signature_name": "raw", **one({**RAW, "city": {"b65": "AA"}})}, 'must be {"b64": "…"}'),
    "rows of a signature without": ({"signature_name": "rank", **one({"user": 1, "item": 1})}, None),
    "other rows": ({"inputs": {"dense": [[1, 2]] * 2, "sparse": [[1, 2, 3]] * 3}}, "refuses the request"),
    "examples to predict": ({"examples": [{}]}, "unknown key 'examples'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_request_that_does_not_fit_is_a_400_in_one_sentence(server, name):
    body, phrase = WRONG[name]
    status, answer = server.predict(body)
    if phrase is None:
        assert status == 200 or (status == 400 and set(answer) == {"error"})
        return
    assert status == 400, answer
    assert phrase in answer["error"]
    assert set(answer) == {"error"}
    assert answer["error"].endswith(".") and "\n" not in answer["error"] and len(answer["error"]) < 500
    assert server.predict(one(ROW))[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "phrase"),
    [
        ("/v1/models/other:predict", one(ROW), 404, "model 'other' is not served here; there are: 'clicks'"),
        ("/v1/models/clicks/versions/9:predict", one(ROW), 404, "no version 9 to serve; available: 1, 2"),
        ("/v1/models/clicks/labels/blue:predict", one(ROW), 400, "no version label 'blue'"),
        ("/v1/models/clicks:guess", one(ROW), 400, "malformed address"),
        ("/v1/models/clicks/versions/x:predict", one(ROW), 400, "malformed address"),
        ("/v1/models/clicks", one(ROW), 400, "malformed address"),
        ("/v1/models/other", None, 404, "model 'other' is not served here"),
        ("/v1/models/clicks/versions/9", None, 404, "no version 9"),
        ("/v1/models/clicks:predict", None, 400, "predictions are asked for with POST"),
        ("/v1/elsewhere", None, 400, "malformed address"),
        ("/elsewhere", None, 404, "nothing here"),
        ("/v1/models/clicks:regress", {"examples": [{"price": 1.0}]}, 400, "'serving_default' is for predict"),
        ("/v1/models/clicks:regress", {"signature_name": "regress"}, 400, "'examples', a list"),
        ("/v1/models/clicks:regress", {"signature_name": "regress", "examples": [3]}, 400, "example 0 must be an object"),
        ("/v1/models/clicks:regress", {"signature_name": "regress", "examples": [{"price": 1}]}, 400, "refuses"),
        ("/v1/models/clicks:regress", {"signature_name": "regress", "examples": [{"price": [1, 2.0]}]}, 400, "one kind"),
        ("/v1/models/clicks:regress", {"signature_name": "regress", "examples": [{"price": 1e99}]}, 400, "cannot hold"),
        ("/v1/models/clicks:regress", {"signature_name": "regress", "examples": [{"price": 2**63}]}, 400, "cannot hold"),
        ("/v1/models/clicks:explain", {"instances": []}, 400, "of one row"),
        ("/v1/models/clicks:explain", {"top": -1, **one(ROW)}, 400, "'top' must be"),
        ("/v1/models/clicks:explain", {"signature_name": "rank", "inputs": {"user": [1], "item": [1]}}, 400, "no rows"),
    ],
)
def test_addresses_and_other_methods(server, path, body, status, phrase):
    found, answer = server.ask(path, body)
    assert (found, phrase in answer["error"]) == (status, True), answer


def test_a_method_that_no_address_has(server):
    connection = http.client.HTTPConnection(server.rest)
    connection.request("DELETE", "/v1/models/clicks")
    response = connection.getresponse()
    assert response.status == 405
    assert "not with this method" in json.loads(response.read())["error"]
    connection.close()


def test_ten_megabytes_of_json_are_refused(server):
    body = json.dumps({"instances": [ROW] * 250_000}).encode()
    assert len(body) > 10 * 2**20
    status, answer = server.predict(body)
    assert status == 413
    assert answer["error"] == "the request is larger than the 8388608 bytes allowed."
    assert server.predict(one(ROW))[0] == 200


def test_a_compressed_request_is_refused_and_not_misread(server):
    status, answer = server.ask("/v1/models/clicks:predict", b"\x1f\x8b", {"Content-Encoding": "gzip"})
    assert (status, "gzip" in answer["error"]) == (415, True)


def test_clients_that_hang_up_and_bytes_that_are_no_http_do_no_harm(server):
    host, port = server.rest.split(":")
    for data in (b"\x00\x01\x02\r\n\r\n", b"POST /v1/models/clicks:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(data)
    assert server.predict(one(ROW))[0] == 200
    assert "Traceback" not in server.log()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["instances", "inputs", "signature_name", "examples", "context", "dense", "sparse", "top", "b64"])
NAMES = ["serving_default", "raw", "rank", "regress", "classify"]
ENOUGH = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(server, path, body):
    status, answer = server.ask(path, body)
    assert status in (200, 400), (status, answer)
    if status == 400:
        assert answer["error"].endswith(".") and "\n" not in answer["error"]


@ENOUGH
@given(body=st.dictionaries(KEYS, JSON, max_size=4) | JSON, method=st.sampled_from(["predict", "regress", "explain"]))
def test_any_json_gets_an_answer_or_a_400(server, body, method):
    check(server, f"/v1/models/clicks:{method}", body)


@ENOUGH
@given(
    values=st.fixed_dictionaries({"dense": JSON, "sparse": JSON})
    | st.fixed_dictionaries({"city": JSON, "tags": JSON, "price": JSON})
    | st.fixed_dictionaries({"user": JSON, "item": JSON}),
    name=st.sampled_from(NAMES),
    key=st.sampled_from(["instances", "inputs", "examples"]),
)  # fmt: skip
def test_any_values_under_the_right_names_get_an_answer_or_a_400(server, values, name, key):
    method = "predict" if key != "examples" else name if name in ("regress", "classify") else "regress"
    check(server, f"/v1/models/clicks:{method}", {"signature_name": name, key: values if key == "inputs" else [values]})


@ENOUGH
@given(body=st.binary(min_size=1, max_size=60))
def test_any_bytes_get_a_400(server, body):
    check(server, "/v1/models/clicks:predict", body)


def test_the_server_is_still_there_after_all_of_it(server):
    assert server.process.poll() is None
    assert server.predict(one(ROW))[0] == 200
    assert "Traceback" not in server.log()
