"""The REST interface, as TensorFlow Serving's documentation has it."""

import base64
import contextlib
import http.client
import json
import time

import numpy as np
import pytest
from helpers.saved_models import probability

pytestmark = pytest.mark.neutral

ROW = {"dense": [1.0, 2.0], "sparse": [7, 1, -1]}
WHOLE = {"instances": [ROW]}


def test_rows_and_columns_give_the_models_answer(server):
    rows = [ROW, {"dense": [0, -3], "sparse": [0, 9, 9]}]
    expected = probability([r["dense"] for r in rows], [r["sparse"] for r in rows], 1.0)
    status, answer = server.predict({"instances": rows})
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-6)
    columns = {name: [row[name] for row in rows] for name in ROW}
    status, answer = server.predict({"signature_name": "serving_default", "inputs": columns})
    assert status == 200
    np.testing.assert_allclose(answer["outputs"], expected, rtol=1e-6)


def test_a_float32_arrives_as_it_left(server):
    value = np.float32(probability([[1, 2]], [[7, 1, -1]], 1.0)[0, 0])
    _, answer = server.predict(WHOLE)
    assert abs(np.float32(answer["predictions"][0][0]) - value) <= np.spacing(value)


@pytest.mark.parametrize(("target", "bias"), [("clicks/versions/1", 0), ("clicks/labels/stable", 0), ("clicks", 1),
                                              ("clicks/versions/2", 1), ("clicks/labels/canary", 1)])  # fmt: skip
def test_versions_and_labels_choose_the_model(server, target, bias):
    _, answer = server.predict(WHOLE, target)
    np.testing.assert_allclose(answer["predictions"], probability([[1, 2]], [[7, 1, -1]], bias), rtol=1e-6)


def test_no_row_and_one_row_are_batches_too(server):
    assert server.predict({"instances": []}) == (200, {"predictions": []})
    assert server.predict({"inputs": {"dense": [], "sparse": []}}) == (200, {"outputs": []})
    assert len(server.predict(WHOLE)[1]["predictions"]) == 1


def test_strings_travel_as_text_and_as_base64(server):
    as_bytes = {"b64": base64.b64encode(b"Oslo").decode()}
    body = {
        "signature_name": "raw",
        "instances": [
            {"city": "Oslo", "tags": ["a", ""], "price": 1},
            {"city": as_bytes, "tags": [{"b64": ""}, "b"], "price": 1.0},
        ],
    }
    status, answer = server.predict(body)
    assert status == 200
    first, second = answer["predictions"]
    assert first == second
    assert first == {"city_bytes": as_bytes, "seen": True, "probability": pytest.approx(1 / (1 + np.exp(-4)))}


def test_columns_of_different_lengths_rank_one_user_against_many_items(server):
    body = {"signature_name": "rank", "inputs": {"user": [3], "item": [1, 2, 5]}}
    assert server.predict(body) == (200, {"outputs": [301.0, 302.0, 305.0]})


def test_a_signature_of_one_input_takes_values_without_a_name(server):
    example = b""  # the empty tf.Example, which lacks price
    body = {"signature_name": "regress", "instances": [{"b64": base64.b64encode(example).decode()}]}
    status, answer = server.predict(body)
    assert status == 400
    assert "price" in answer["error"]
    assert server.predict({"signature_name": "wait", "inputs": "/"}) == (200, {"outputs": {"open": True, "gate": "/"}})


def test_examples_are_regressed_and_classified(server):
    examples = [{"price": 0.5, "city": "Oslo"}, {"price": [-0.5]}]
    expected = 1 / (1 + np.exp(-np.array([2.5, 0.5])))
    status, answer = server.ask("/v1/models/clicks:regress", {"signature_name": "regress", "examples": examples})
    assert status == 200
    np.testing.assert_allclose(answer["results"], expected, rtol=1e-6)
    status, answer = server.ask("/v1/models/clicks:classify", {"signature_name": "classify", "examples": examples})
    assert [[label for label, _ in row] for row in answer["results"]] == [["no", "yes"]] * 2
    np.testing.assert_allclose([row[1][1] for row in answer["results"]], expected, rtol=1e-6)


def test_a_context_fills_what_an_example_leaves_out(server):
    body = {"signature_name": "regress", "context": {"price": 0.5, "city": "Rome"}, "examples": [{}, {"city": "Oslo"}]}
    _, answer = server.ask("/v1/models/clicks:regress", body)
    np.testing.assert_allclose(answer["results"], 1 / (1 + np.exp(-np.array([0.5, 2.5]))), rtol=1e-6)


def test_status_names_every_version(server):
    entry = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    both = {"model_version_status": [{"version": "2", **entry}, {"version": "1", **entry}]}
    assert server.ask("/v1/models/clicks") == (200, both)
    one = {"model_version_status": [{"version": "1", **entry}]}
    assert server.ask("/v1/models/clicks/versions/1") == (200, one)
    assert server.ask("/v1/models/clicks/labels/stable") == (200, one)


def test_metadata_shows_the_signatures(server):
    status, answer = server.ask("/v1/models/clicks/versions/1/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "clicks", "signature_name": "", "version": "1"}
    found = answer["metadata"]["signature_def"]["signature_def"]
    assert set(found) == {"serving_default", "raw", "rank", "wait", "regress", "classify"}
    assert found["regress"]["method_name"] == "tensorflow/serving/regress"
    sparse = found["serving_default"]["inputs"]["sparse"]
    assert sparse["dtype"] == "DT_INT64"
    assert [dim["size"] for dim in sparse["tensor_shape"]["dim"]] == ["-1", "3"]


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(server):
    host, port = server.rest.split(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port))) as connection:
        times = []
        for _ in range(20):  # on one connection, where Nagle's algorithm would hold answers back for 40 ms
            start = time.perf_counter()
            connection.request("POST", "/v1/models/clicks:predict", json.dumps(WHOLE))
            assert connection.getresponse().read()
            times.append(time.perf_counter() - start)
    assert min(times) < 0.03


def test_health_and_metrics(server):
    server.predict(WHOLE)
    server.predict({"instances": [{"dense": [1], "sparse": [1, 2, 3]}]})
    server.predict(WHOLE, "no-such-model")
    assert server.ask("/health/live")[0] == server.ask("/health/ready")[0] == 200
    import urllib.request

    from prometheus_client.parser import text_string_to_metric_families

    for path in ("/metrics", "/monitoring/prometheus/metrics"):
        with urllib.request.urlopen(f"http://{server.rest}{path}") as response:
            families = {f.name: f for f in text_string_to_metric_families(response.read().decode())}
    counts = {
        (s.labels["model"], s.labels["signature"], s.labels["status"]): s.value
        for s in families["keras_dlrm_serving_requests"].samples
        if s.name.endswith("_total") and s.labels["method"] == "predict"
    }
    assert counts["clicks", "serving_default", "OK"] >= 1
    assert counts["clicks", "serving_default", "INVALID_ARGUMENT"] >= 1
    assert counts["", "", "NOT_FOUND"] >= 1, "a name that does not exist makes no time series of its own"
    buckets = [
        s.value for s in families["keras_dlrm_serving_request_seconds"].samples
        if s.name.endswith("_bucket") and s.labels["method"] == "predict" and s.labels["protocol"] == "rest"
        and s.labels["signature"] == "serving_default"
    ]  # fmt: skip
    assert buckets == sorted(buckets)
    assert buckets[-1] >= 2
    available = families["keras_dlrm_serving_version_available"].samples
    assert {s.labels["version"]: s.value for s in available} == {"1": 1.0, "2": 1.0}


def test_values_are_missing_in_any_form(server):
    full = {"city": "Oslo", "tags": ["a", "b"], "price": 1.0}
    gone = [{"tags": [], "price": None}, {"tags": None}, {"tags": [None], "price": "NaN"}]
    gone = [{"city": "Oslo", **row} for row in gone]
    status, answer = server.predict({"signature_name": "raw", "instances": [*gone, full]})
    assert status == 200, answer
    values = [row["probability"] for row in answer["predictions"]]
    assert values[0] == values[1] == values[2] != values[3]
    columns = {"city": ["Oslo", None], "tags": [None, ["a"]], "price": None}
    status, answer = server.predict({"signature_name": "raw", "inputs": columns})
    assert (
        status == 200 and answer["outputs"]["probability"][0] == values[0] and answer["outputs"]["city_bytes"][1] == {"b64": ""}
    )
    status, answer = server.predict({"signature_name": "raw", "inputs": {"tags": [["a"]], "price": [1.0]}})
    assert (status, "'city' is missing" in answer["error"]) == (400, True)


PAGE = ["/", "/page.js", "/page/models"]
OTHERS = ["/v1/models/clicks", "/health/live", "/metrics"]


@pytest.mark.parametrize("name", ["localhost:{port}", "127.0.0.1:{port}", "127.0.0.2", "LOCALHOST", "[::1]:{port}"])
def test_the_page_answers_under_loopback_names(server, name):
    port = server.rest.split(":")[1]
    for path in PAGE + OTHERS:
        assert asked(server, path, {"Host": name.format(port=port)}) == 200


@pytest.mark.parametrize("name", ["rebound.example:8501", "localhost.example", "203.0.113.7", ""])
def test_the_page_is_not_served_under_a_name_that_was_pointed_here(server, name):
    for path in PAGE:
        assert asked(server, path, {"Host": name}) == 403
    assert asked(server, "/v1/models/clicks:explain", {"Host": name}, json.dumps(WHOLE)) == 403
    for path in OTHERS:  # programs may come under any name
        assert asked(server, path, {"Host": name}) == 200
    assert asked(server, "/v1/models/clicks:predict", {"Host": name}, json.dumps(WHOLE)) == 200


@pytest.mark.parametrize("origin", ["https://other.example", "null", "http://localhost:1", "http://rebound.example:8501", ""])
def test_pages_of_others_may_not_ask(server, origin):
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    for host in (server.rest, "rebound.example:8501"):
        for path in PAGE + OTHERS:
            assert asked(server, path, {**headers, "Host": host}) == 403
        assert asked(server, "/v1/models/clicks:predict", {**headers, "Host": host}, json.dumps(WHOLE)) == 403
    assert asked(server, "/page/models", {"Origin": f"http://{server.rest}"}) == 200


def asked(server, path, headers, body=None):
    """Status of a request with exactly these headers."""
    with contextlib.closing(http.client.HTTPConnection(server.rest, timeout=30)) as connection:
        connection.putrequest("GET" if body is None else "POST", path, skip_host=True)
        for name, value in {"Host": server.rest, "Content-Length": str(len(body or "")), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders((body or "").encode())
        response = connection.getresponse()
        response.read()
        return response.status


def test_a_reverse_proxys_name_can_be_allowed(tmp_path, serve, publish):
    (tmp_path / "clicks").mkdir()
    with serve(tmp_path / "clicks", allowed_hosts=["models.example"]) as server:
        for headers in ({"Host": "models.example"}, {"Origin": "https://models.example"}, {"Host": "Models.Example:443"}):
            assert asked(server, "/page/models", headers) == 200
        assert asked(server, "/page/models", {"Host": "other.example"}) == 403


def test_answers_name_no_folder_of_the_server(tmp_path, serve, publish):
    folder = tmp_path / "a folder" / "clicks"
    folder.mkdir(parents=True)
    publish(folder, 1)
    (folder / "2").mkdir()
    (folder / "3").mkdir()
    (folder / "3" / "saved_model.pb").write_bytes(b"no model")
    with serve(folder) as server:
        server.wait_for(lambda: len(server.states()) > 0)
        said = json.dumps(
            [server.ask("/v1/models/clicks"), server.ask("/page/models"), server.ask("/v1/models/clicks/versions/9")]
        )
        assert (
            "cannot be loaded" in said
            and str(tmp_path) not in said
            and "/clicks/" not in said.replace("/v1/models/clicks/", "")
        )
        assert str(folder) in server.log()
