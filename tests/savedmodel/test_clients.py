"""The client examples, as programs against the stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")

import keras_dlrm as kd  # noqa: E402
from keras_dlrm.serving import ModelConfig, Server  # noqa: E402

pytestmark = [pytest.mark.neutral, pytest.mark.usefixtures("quick_exports")]

FOLDER = Path(__file__).resolve().parents[2] / "savedmodel"
SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 50), kd.Categorical("b", 20, hotness=2)])
ROWS = [{"dense": [0.3], "sparse": [7, 1, -1]}, {"dense": [2], "sparse": [2**40, 3, 19]}]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A model, served under the names of savedmodel/models.config, and a file of rows."""
    folder = tmp_path_factory.mktemp("clients")
    keras.utils.set_random_seed(0)
    model = kd.models.DLRM(SCHEMA, 4, bottom_mlp=[4], top_mlp=[1])
    kd.export.savedmodel(model, folder / "clicks")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    batch = {"dense": np.array([r["dense"] for r in ROWS], np.float32), "sparse": np.array([r["sparse"] for r in ROWS])}
    config = ModelConfig("clicks", folder / "clicks", labels={"stable": 1, "canary": 1})
    with Server([config], port=0, grpc_port=0) as server:
        yield {"rest": server.port, "grpc": server.grpc_port}, folder / "rows.json", model.predict(batch, verbose=0)


def run(protocol, served, *options):
    ports, rows, _ = served
    command = [
        sys.executable,
        str(FOLDER / f"client_{protocol}.py"),
        str(rows),
        "--address",
        f"localhost:{ports[protocol]}",
    ]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_client_prints_an_answer_per_row(served, protocol):
    done = run(protocol, served, "--label", "canary")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose([json.loads(line) for line in done.stdout.splitlines()], served[2], rtol=1e-5)


@pytest.mark.slow
def test_a_client_says_what_the_server_says(served):
    done = run("rest", served, "--label", "blue")
    assert done.returncode != 0
    assert "400: model 'clicks' has no version label 'blue'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.parametrize("case", ["another address", "no file", "a row without an input"])
def test_a_client_ends_in_one_sentence(protocol, case, served, tmp_path):
    ports, rows, _ = served
    short = tmp_path / "short.json"
    short.write_text('[{"dense": [0.5]}]')
    nobody = {**ports, protocol: 1}
    where, file, said = {
        "another address": (nobody, rows, "server" if protocol == "rest" else "UNAVAILABLE"),
        "no file": (ports, tmp_path / "no.json", "no.json"),
        "a row without an input": (ports, short, "'sparse'"),
    }[case]
    done = run(protocol, (where, file, None))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["client_rest.py", "client_grpc.py"])
def test_a_client_is_a_page(name):
    assert len((FOLDER / name).read_text().splitlines()) <= 75
