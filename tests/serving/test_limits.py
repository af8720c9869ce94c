"""Limits for clients: slow, half, huge and many requests leave the server answering others."""

import contextlib
import json
import resource
import socket
import sys
import threading
import time

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, input_pb2, model_service_pb2_grpc

from keras_dlrm.serving.http_server import stop_handshakes
from keras_dlrm.serving.limits import Limits, connections_that_fit
from keras_dlrm.serving.log_lines import OneLine, Repeats
from keras_dlrm.serving.versions.operations import serialized
from keras_dlrm.serving.wire.errors import ServingError
from keras_dlrm.serving.wire.tensors import from_proto

pytestmark = pytest.mark.neutral

ROW = {"dense": [1.0, 2.0], "sparse": [7, 1, -1]}
HALF = b"POST /v1/models/clicks:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
STRICT = Limits(
    bytes_in_flight=64 * 2**10, connections=12, client_connections=10, request_seconds=0.5, header_bytes=4096, headers=20
)


@pytest.fixture(scope="module")
def strict(templates, tmp_path_factory):
    """A server whose limits are soon reached."""
    import shutil

    from helpers.saved_models import Running

    from keras_dlrm.serving import ModelConfig, Server

    folder = tmp_path_factory.mktemp("strict") / "clicks"
    shutil.copytree(templates[1], folder / "1")
    with Server([ModelConfig("clicks", folder)], port=0, grpc_port=0, max_bytes=32 * 2**10, limits=STRICT) as server:
        yield Running(f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}", str)


def connect(server, data=b""):
    host, port = server.rest.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(data)
    return connection


def answer_to(server, data):
    """Status and error of what comes back before the server closes."""
    with contextlib.closing(connect(server, data)) as connection:
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                found += part
    head, _, body = found.partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body)["error"]) if head else (0, "")


@pytest.mark.parametrize("data", [HALF, b"", b"GET / HT", b"GET / HTTP/1.1\r\nA: b\r\n"])
def test_connections_that_only_wait_make_room_and_are_closed(strict, data):
    held = [connect(strict, data) for _ in range(30)]
    assert strict.ask("/health/live")[0] == 200
    time.sleep(STRICT.request_seconds + 0.3)
    for connection in held:
        connection.settimeout(5)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass
        connection.close()
    assert strict.predict({"instances": [ROW]})[0] == 200


def test_a_client_that_sends_drop_by_drop_has_no_more_time_than_others(strict):
    start = time.monotonic()
    with contextlib.closing(connect(strict, b"GET /health/live HTTP/1.1\r\nA: ")) as connection, contextlib.suppress(OSError):
        while time.monotonic() - start < 5:
            connection.sendall(b"x")
            time.sleep(0.05)
    assert time.monotonic() - start < 3


LINE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /v1/models/clicks:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "long header": (LINE + b"A: " + b"x" * 5000 + b"\r\n\r\n", 431, "4096 bytes"),
    "endless header": (LINE + b"A: " + b"x" * 2**20, 431, "4096 bytes"),
    "long address": (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n", 431, "4096 bytes"),
    "many headers": (LINE + b"A: b\r\n" * 21 + b"\r\n", 431, "more than the 20 headers"),
    "endless trailer": (CHUNKED + b"1\r\n{\r\n0\r\nA: " + b"x" * 2**20, 431, "4096 bytes"),
    "no HTTP": (b"\x16\x03\x01 hello\r\n\r\n", 400, "not HTTP"),
    "half a request": (HALF, 408, "did not arrive within 0.5 s"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_beyond_the_bounds_is_refused_with_a_sentence(strict, name):
    data, status, phrase = REFUSED[name]
    found, error = answer_to(strict, data)
    assert (found, phrase in error) == (status, True), error


def test_bodies_in_flight_share_a_budget(strict):
    head = b"POST /v1/models/clicks:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 32000\r\n\r\n"
    held = [connect(strict, head + b" " * 31_000) for _ in range(2)]
    time.sleep(0.1)
    status, answer = strict.predict({"instances": [ROW] * 500})
    assert (status, answer["error"]) == (503, "requests of more than 65536 bytes are in flight already; try again.")
    assert strict.predict({"instances": [ROW]})[0] == 200
    for connection in held:
        connection.close()
    strict.wait_for(lambda: strict.predict({"instances": [ROW] * 500})[0] == 200, 5)


def test_half_sent_messages_of_grpc_hold_no_thread(strict):
    done = threading.Event()

    def nothing():
        done.wait(10)
        yield from ()

    with grpc.insecure_channel(strict.grpc) as slow, grpc.insecure_channel(strict.grpc) as channel:
        method = slow.stream_unary("/tensorflow.serving.PredictionService/Predict")
        calls = [method.future(nothing()) for _ in range(20)]
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "clicks"
        start = time.monotonic()
        assert model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=10).model_version_status
        assert time.monotonic() - start < 5
        assert strict.predict({"instances": [ROW]})[0] == 200
        for call in calls:
            assert call.exception(timeout=10).code() == grpc.StatusCode.CANCELLED
        done.set()


def test_metadata_of_grpc_is_bounded(strict):
    with grpc.insecure_channel(strict.grpc) as channel:
        call = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", metadata=[("a", "x" * 20_000)], timeout=10)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(("soft", "most"), [(64, 16), (150, 59), (10**6, 1024)])
def test_connections_fit_into_the_files_that_a_process_may_open(monkeypatch, soft, most):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert 4 <= connections_that_fit(1024) <= most


def test_values_that_a_client_repeats_for_nothing_are_bounded():
    text = tf.make_tensor_proto([b"x" * 1000])
    text.tensor_shape.dim[0].size = 1000
    with pytest.raises(ServingError, match="repeats a string until it takes more than the 100000 bytes"):
        from_proto("c", text, 100_000)
    proto = input_pb2.Input()
    proto.example_list_with_context.context.features.feature["c"].bytes_list.value.append(b"x" * 1000)
    for _ in range(1000):
        proto.example_list_with_context.examples.add()
    with pytest.raises(ServingError, match="each with the context, take more than the 100000 bytes"):
        serialized(proto, 100_000)


def test_an_explanation_of_a_large_row_is_refused(server):
    row = {"city": "x" * 70_000, "tags": ["a"], "price": 1.0}
    status, answer = server.ask("/v1/models/clicks:explain", {"signature_name": "raw", "instances": [row]})
    assert status == 413 and answer["error"].startswith("the row has 700")


def test_log_lines_are_single_short_and_few():
    import logging

    record = logging.makeLogRecord({"msg": "name %s", "args": ("a\nERROR forged\r\x1b[2J" + "x" * 5000,), "levelname": "INFO"})
    line = OneLine("%(levelname)s %(message)s").format(record)
    assert line.startswith("INFO name a\\nERROR forged\\r\\x1b[2Jxxx") and len(line) < 2100
    try:
        raise ValueError("a\nERROR forged")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    assert all(rest.startswith("  ") for rest in OneLine("%(message)s").format(record).split("\n")[2:])
    repeats = Repeats()
    lines = [logging.makeLogRecord({"msg": "no model %s", "args": (str(i),)}) for i in range(100)]
    assert sum(map(repeats.filter, lines)) == 20
    next(iter(repeats._kinds.values()))[0] -= 60
    last = logging.makeLogRecord({"msg": "no model %s", "args": ("100%",)})
    assert repeats.filter(last) and last.getMessage() == "no model 100% (80 more like it were left out)"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_no_connection_is_reset_when_the_listening_socket_closes():
    def connect(address, found):
        while True:
            try:
                with socket.create_connection(address, timeout=0.2) as connection:
                    connection.sendall(b"x")
                    found.append(connection.recv(1))
            except (ConnectionRefusedError, TimeoutError):
                return
            except OSError as error:
                found.append(error)

    for _ in range(10):  # without the filter, half of these end in a reset
        found, end = [], time.monotonic() + 0.05
        with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
            threads = [threading.Thread(target=connect, args=(listening.getsockname(), found)) for _ in range(6)]
            for thread in threads:
                thread.start()
            with contextlib.suppress(BlockingIOError):
                while True:
                    if time.monotonic() > end and listening.getblocking():
                        stop_handshakes(listening)
                        listening.setblocking(False)
                    with listening.accept()[0] as accepted:
                        accepted.setblocking(True)
                        accepted.sendall(b"y" if accepted.recv(1) else b"")
        for thread in threads:
            thread.join()
        assert set(found) == {b"y"}


def test_requests_are_answered_before_it_stops(tmp_path, serve, publish):
    import http.client

    (tmp_path / "clicks").mkdir()
    publish(tmp_path / "clicks", 1)
    found, stop = [], threading.Event()

    def load(address):
        while not stop.is_set():
            try:
                with contextlib.closing(http.client.HTTPConnection(address, timeout=20)) as connection:
                    connection.request("POST", "/v1/models/clicks:predict", json.dumps({"instances": [ROW]}))
                    found.append(connection.getresponse().status)
            except ConnectionRefusedError:
                return
            except OSError as error:
                found.append(error)

    with serve(tmp_path / "clicks") as server:
        threads = [threading.Thread(target=load, args=(server.rest,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        server.wait_for(lambda: len(found) > 30)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(found) == {200}
