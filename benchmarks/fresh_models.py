"""Time from the publication of a delta to the first answer with it, under clients that ask all the while.

    python benchmarks/fresh_models.py
    python benchmarks/fresh_models.py --rows 10000000 --share 0.001

A model is exported, a share of its rows and all dense weights change, and the delta is renamed into the folder of a running
`keras-dlrm serve`, which looks there once a second. The answers are compared with those of a full export of the changed model.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import click
import numpy as np

import keras_dlrm as kd

# Bits of float32 survive JSON: the server writes as many digits as it takes.
_ROWS = 500


def trained(model: Any, share: float) -> None:
    """Stand for training: other values in a share of the rows, and in all kernels."""
    random = np.random.default_rng(1)
    rows = np.array(model.embedding_tables()["item"])
    rows[random.choice(len(rows), int(share * len(rows)), replace=False)] += 0.01
    model.embeddings.set_embedding_tables({"item": rows})
    for variable in model.weights:
        if variable.path.endswith("kernel"):
            variable.assign(variable * 1.01)


def size(path: Path) -> int:
    """Bytes of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def timed(function: Any, *args: Any) -> tuple[Any, float]:
    """Result of a call, and its seconds."""
    start = time.perf_counter()
    return function(*args), time.perf_counter() - start


class Clients:
    """Clients in a closed loop: each answer with the time when it came, and failures."""

    def __init__(self, address: str, body: bytes, count: int) -> None:
        self.address, self.body = address, body
        self.answers: list[tuple[float, float, np.ndarray]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def ask(self) -> np.ndarray:
        """One answer."""
        with urllib.request.urlopen(urllib.request.Request(self.address, self.body), timeout=60) as response:
            return np.array(json.loads(response.read())["outputs"], np.float32)

    def _run(self) -> None:
        while not self._stop.is_set():
            start = time.perf_counter()
            try:
                answer = self.ask()
                self.answers.append((time.perf_counter(), time.perf_counter() - start, answer))
            except Exception as error:
                self.failures.append(repr(error))

    def stop(self) -> None:
        """End them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def published(path: Path, folder: Path) -> float:
    """Copy a version or a delta into a folder, and the moment when it is renamed."""
    shutil.copytree(path, folder / ".copying")
    moment = time.perf_counter()
    (folder / ".copying").rename(folder / path.name)
    return moment


def first(clients: Clients, before: np.ndarray, since: float) -> float:
    """Seconds from a moment to the first answer that is another one than before."""
    while True:
        for moment, _, answer in list(clients.answers):
            if moment > since and (answer != before).any():
                return moment - since
        if time.perf_counter() - since > 300:
            raise RuntimeError(f"no new answer in 300 s; failures: {clients.failures[:3]}")
        time.sleep(0.01)


@click.command(context_settings={"show_default": True})
@click.option("--rows", default=1_000_000, help="Rows of the table.")
@click.option("--dim", default=16, help="Width of the table.")
@click.option("--share", default=0.01, help="Share of the rows that change.")
@click.option("--clients", "count", default=2, help="Clients that ask at the same time.")
def main(rows: int, dim: int, share: float, count: int) -> None:
    """Time from the publication of a delta to the first answer with it."""
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("item", rows), kd.Categorical("user", 1000)])
    model = kd.models.DLRM(schema, dim, [32, dim], [32, 1], seed=0)
    random = np.random.default_rng(0)
    ids = np.stack([random.integers(0, n, _ROWS) for n in (rows, 1000)], axis=1)
    body = json.dumps({"inputs": {"dense": random.normal(size=(_ROWS, 1)).tolist(), "sparse": ids.tolist()}}).encode()
    with tempfile.TemporaryDirectory() as name:
        staged, served = Path(name) / "staged", Path(name) / "clicks"
        base = kd.export.savedmodel(model, staged)
        trained(model, share)
        delta, delta_seconds = timed(kd.export.delta, model, base)
        full, full_seconds = timed(kd.export.savedmodel, model, staged)
        served.mkdir()
        published(base, served)
        command = [sys.executable, "-m", "keras_dlrm.cli", "serve", str(served), "--port", "0", "--grpc-port", "0", "--json"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["port"]
            clients = Clients(f"http://127.0.0.1:{port}/v1/models/clicks:predict", body, count)
            before = clients.ask()
            time.sleep(2)
            changed = published(delta, served)
            fresh = first(clients, before, changed)
            time.sleep(2)
            with_delta = clients.ask()
            during = [seconds for moment, seconds, _ in clients.answers if changed < moment < changed + fresh + 1]
            usual = [seconds for moment, seconds, _ in clients.answers if moment < changed]
            after = [seconds for moment, seconds, _ in clients.answers if moment > changed + fresh + 1]
            moment = published(full, served)
            while f'"version":"{full.name}","state":"AVAILABLE"' not in _status(port):
                time.sleep(0.05)
            reload = time.perf_counter() - moment
            equal = bool((clients.ask() == with_delta).all())
            clients.stop()
            mixed = sum((answer != before).any() and (answer != with_delta).any() for *_, answer in clients.answers)
        finally:
            server.terminate()
            server.wait()
        sizes = size(delta), size(full)
    print(f"{rows:,} rows x {dim}, {share:.2%} of them changed; {count} clients, {_ROWS} rows a request")
    print(f"bytes: delta {sizes[0]:,}, full version {sizes[1]:,}")
    print(f"written in: delta {delta_seconds:.1f} s, full version {full_seconds:.1f} s")
    print(f"from rename to the first answer: delta {fresh:.2f} s, full version {reload:.2f} s")
    print(f"longest request: {max(usual):.3f} s before, {max(during):.3f} s around the delta, {max(after):.3f} s after it")
    print(f"median request: {np.median(usual):.4f} s before, {np.median(after):.4f} s after")
    print(f"failed requests: {len(clients.failures)} of {len(clients.answers)}; answers of neither version: {mixed}")
    print(f"answers equal those of the full version to the bit: {equal}")


def _status(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/clicks") as response:
        return "".join(response.read().decode().split())


if __name__ == "__main__":
    main()
