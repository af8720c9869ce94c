"""Costs of a server beyond the signature that it runs: a closed loop of clients, over gRPC and REST.

    python benchmarks/serving_load.py served/clicks                        (starts the stand-in, measures, stops it)
    python benchmarks/serving_load.py served/clicks --rest localhost:8501 --grpc localhost:8500 --model clicks
    python benchmarks/serving_load.py served/clicks --rows 1 --rows 64 --clients 1 --clients 8 --seconds 5

Each client sends its next request when the last one is answered. A failure is counted and is no latency. The clients are
threads of this process, the server is another one; both share the machine's cores, as the figures do. The bare signature
is the same version run in this process, without a server.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

# A client with a connection of its own: a function that sends one request, and raises where it fails.
MakeClient = Callable[[], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class Load:
    """Measurements of a closed loop.

    Attributes:
        latencies: Seconds of each answered request, in no order.
        failures: Messages of those that failed.
        seconds: Length of the measurement.
    """

    latencies: np.ndarray
    failures: list[str]
    seconds: float

    def milliseconds(self, percent: float) -> float:
        """A percentile of the latencies in ms; NaN where none was answered."""
        return float(np.percentile(self.latencies, percent)) * 1e3 if len(self.latencies) else float("nan")

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {
            "p50 ms": f"{self.milliseconds(50):.2f}",
            "p99 ms": f"{self.milliseconds(99):.2f}",
            "requests/s": f"{len(self.latencies) / self.seconds:,.0f}",
            "failures": len(self.failures),
        }


def closed_loop(
    make_client: MakeClient, clients: int, seconds: float, warm_up: int = 20, stop: threading.Event | None = None
) -> Load:
    """Let clients send for some time, each its next request when the last one is answered.

    Args:
        make_client: Called once in each client's thread.
        clients: How many there are.
        seconds: How long they send.
        warm_up: Requests of each client before the clock starts.
        stop: Ends it before that, once set.
    """
    latencies: list[list[float]] = [[] for _ in range(clients)]
    failures: list[str] = []
    ready, ends = threading.Barrier(clients + 1), [0.0]
    stop = stop or threading.Event()

    def work(mine: list[float]) -> None:
        waited = False
        try:
            with make_client() as send:
                for _ in range(warm_up):
                    send()
                waited = True
                ready.wait()
                while time.perf_counter() < ends[0] and not stop.is_set():
                    start = time.perf_counter()
                    try:
                        send()
                    except Exception as error:
                        failures.append(repr(error))
                        time.sleep(0.001)
                    else:
                        mine.append(time.perf_counter() - start)
        except Exception as error:
            failures.append(repr(error))
            if not waited:  # the others must not wait for it
                ready.wait()

    threads = [threading.Thread(target=work, args=(mine,), daemon=True) for mine in latencies]
    for thread in threads:
        thread.start()
    # Set before the barrier falls; warm-up of the slowest client is not counted.
    while ready.n_waiting < clients:
        time.sleep(0.001)
    start = time.perf_counter()
    ends[0] = start + seconds
    ready.wait()
    for thread in threads:
        thread.join()
    return Load(np.array([t for mine in latencies for t in mine]), failures, time.perf_counter() - start)


def grpc_client(
    address: str, model: str, arrays: Mapping[str, np.ndarray], signature: str = "serving_default"
) -> MakeClient:
    """Clients that send a Predict request, serialized anew each time, and read the answer; arrays have the exact dtypes."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    @contextmanager
    def make() -> Iterator[Callable[[], None]]:
        # Channels to one address share a connection unless told otherwise.
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

            def send() -> None:
                request = predict_pb2.PredictRequest()
                request.model_spec.name, request.model_spec.signature_name = model, signature
                for name, array in arrays.items():
                    request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
                stub.Predict(request, timeout=30)

            yield send

    return make


def rest_client(
    address: str, model: str, arrays: Mapping[str, np.ndarray], signature: str = "serving_default"
) -> MakeClient:
    """Clients that send a :predict request in columns, serialized anew each time, and parse the answer."""
    host, _, port = address.rpartition(":")

    @contextmanager
    def make() -> Iterator[Callable[[], None]]:
        connection = http.client.HTTPConnection(host, int(port), timeout=30)

        def send() -> None:
            body = json.dumps({"signature_name": signature, "inputs": {k: v.tolist() for k, v in arrays.items()}})
            connection.request("POST", f"/v1/models/{model}:predict", body)
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {text[:200]!r}")
            json.loads(text)

        with closing(connection):
            yield send

    return make


def bare_client(version: Path, arrays: Mapping[str, np.ndarray], signature: str = "serving_default") -> MakeClient:
    """The signature itself, loaded in this process with `tf.saved_model.load`: no server can be faster."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(version))
    function = loaded.signatures[signature]

    @contextmanager
    def make() -> Iterator[Callable[[], None]]:
        def send(kept: Any = loaded) -> None:  # the signature does not keep its model alive
            outputs = function(**{name: tf.constant(array) for name, array in arrays.items()})
            for value in outputs.values():
                value.numpy()

        yield send

    return make


@contextmanager
def stand_in(folder: Path, *options: str) -> Iterator[dict[str, Any]]:
    """`keras-dlrm serve` as a process on free ports, until the block ends: its `host`, `port`, `grpc_port` and `models`."""
    command = [sys.executable, "-m", "keras_dlrm.cli", "serve", str(folder), "--port", "0", "--grpc-port", "0", "--json"]
    server = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            raise RuntimeError(f"the server did not start: exit code {server.wait()}.")
        yield json.loads(line)
    finally:
        server.terminate()
        server.wait(30)


def example_arrays(
    version: Path, rows: int, signature: str = "serving_default", seed: int = 0
) -> dict[str, np.ndarray]:
    """Random inputs of a signature whose first dimension is the rows: ids within the schema, normal numbers, short texts.

    Args:
        version: Folder of `saved_model.pb`, with `assets.extra/schema.json` beside it for ids.
        rows: B.
        signature: Its name.
        seed: Of the values.
    """
    from keras_dlrm.schema.schema import Schema
    from keras_dlrm.serving.versions.features import features_of
    from keras_dlrm.serving.versions.saved_model import SavedModel
    from keras_dlrm.serving.wire.tensors import DTYPES

    rng = np.random.default_rng(seed)
    path = version / "assets.extra" / "schema.json"
    model = SavedModel(version)
    try:
        found = model.signatures[signature]
        features = features_of(found, Schema.load(path) if path.is_file() else None)
    finally:
        model.close()
    arrays = {}
    for name, tensor in found.inputs.items():
        shape = [rows, *(max(size, 1) for size in (tensor.shape or ())[1:])]
        arrays[name] = np.zeros(shape, DTYPES[tensor.dtype].numpy)
    for feature in features:
        array = arrays[feature.input]
        part = array if feature.start is None else array[:, feature.start : feature.stop]
        if feature.kind == "id":
            part[...] = rng.integers(0, feature.vocabulary_size or 10, part.shape)
        elif feature.kind == "text":
            part[...] = rng.choice([b"a", b"b", b"c"], part.shape)
        elif feature.kind == "number":
            part[...] = 1 if feature.weight else rng.normal(size=part.shape)
    return arrays


def measure(
    folder: Path, rows: int, clients: int, seconds: float, rest: str, grpc: str, model: str, signature: str
) -> dict[str, Load]:
    """The same request bare, over gRPC and over REST, one after the other.

    Args:
        folder: Folder of the versions; the highest is what the server is taken to serve.
        rows: B.
        clients: Clients at a time.
        seconds: Of each measurement.
        rest, grpc: Addresses.
        model: Name of the model.
        signature: Its name.
    """
    version = max((p for p in folder.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    arrays = example_arrays(version, rows, signature)
    return {
        "bare signature": closed_loop(bare_client(version, arrays, signature), clients, seconds),
        "gRPC": closed_loop(grpc_client(grpc, model, arrays, signature), clients, seconds),
        "REST": closed_loop(rest_client(rest, model, arrays, signature), clients, seconds),
    }


def table(rows: list[int], clients: list[int], take: Callable[[int, int], Mapping[str, Load]]) -> list[dict[str, Any]]:
    """Rows for `results.markdown_table`, with the overhead beside the bare signature's median.

    Args:
        rows, clients: What is varied.
        take: Measures one of them.
    """
    found = []
    for b in rows:
        for n in clients:
            loads = take(b, n)
            bare = loads["bare signature"].milliseconds(50)
            for name, load in loads.items():
                over = "" if name == "bare signature" else f"{load.milliseconds(50) - bare:+.2f}"
                found.append({"rows": b, "clients": n, "way": name, **load.row(), "over bare, ms": over})
    return found


@click.command(help=(__doc__ or "").replace("    python", "\b\n    python", 1))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rows", multiple=True, type=int, default=[1, 64, 2048], show_default=True, help="B. May be repeated.")
@click.option("--clients", multiple=True, type=int, default=[1], show_default=True, help="May be repeated.")
@click.option("--seconds", default=5.0, show_default=True, help="Of each measurement.")
@click.option("--signature", default="serving_default", show_default=True)
@click.option("--rest", help="Address of a running server; the stand-in is started by default.")
@click.option("--grpc", help="The same for gRPC.")
@click.option("--model", help="Name of the model there.")
def main(
    folder: Path, rows: tuple[int, ...], clients: tuple[int, ...], seconds: float, signature: str, rest: str | None,
    grpc: str | None, model: str | None,
) -> None:  # fmt: skip
    """Print the table."""
    from results import machine, markdown_table

    if (rest is None) != (grpc is None):
        raise click.UsageError("give both --rest and --grpc, or neither.")

    def print_table(rest: str, grpc: str, model: str) -> None:
        def take(b: int, n: int) -> dict[str, Load]:
            return measure(folder, b, n, seconds, rest, grpc, model, signature)

        click.echo(markdown_table(table(list(rows), list(clients), take)))
        click.echo(f"\n{machine()}")

    if rest is not None and grpc is not None:
        print_table(rest, grpc, model or folder.resolve().name)
        return
    with stand_in(folder) as server:
        name = next(iter(server["models"]))
        print_table(f"127.0.0.1:{server['port']}", f"127.0.0.1:{server['grpc_port']}", name)


if __name__ == "__main__":
    main()
