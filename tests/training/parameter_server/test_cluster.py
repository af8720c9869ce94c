"""Processes of a cluster, with programs that do next to nothing."""

import json
import sys

import pytest

from keras_dlrm.parameter_server import cluster
from keras_dlrm.parameter_server.cluster import SERVER_LOST, launch, loopback, task

pytestmark = pytest.mark.neutral

# Each process notes its task in a file of its own, then does what the test says.
PROGRAM = """
import json, os, sys, time, pathlib
config = json.loads(os.environ["TF_CONFIG"])
me = config["task"]["type"], config["task"]["index"]
folder = pathlib.Path(sys.argv[1])
(folder / f"{me[0]}-{me[1]}-{os.getpid()}").touch()
def runs(name):
    return len(list(folder.glob(f"{name}-*")))
def wait(name, count):
    while runs(name) < count:
        time.sleep(0.02)
"""


def run(folder, then, **options):
    return launch([sys.executable, "-c", PROGRAM + then, str(folder)], workers=2, servers=1, **options)


def notes(folder):
    return sorted(path.name.rpartition("-")[0] for path in folder.iterdir())


def test_the_chiefs_exit_code_is_the_clusters_and_the_others_end_with_it(tmp_path):
    then = "if me[0] == 'chief': wait('worker', 2); wait('ps', 1); sys.exit(7)\ntime.sleep(60)"
    assert run(tmp_path, then) == 7
    assert notes(tmp_path) == ["chief-0", "ps-0", "worker-0", "worker-1"]


def test_a_worker_that_dies_is_started_again(tmp_path):
    then = (
        "if me[0] == 'chief': wait('worker-1', 3); sys.exit(0)\n"
        "if me == ('worker', 1) and runs('worker-1') < 3: os.kill(os.getpid(), 9)\ntime.sleep(60)"
    )
    assert run(tmp_path, then) == 0
    assert notes(tmp_path).count("worker-1") == 3 and notes(tmp_path).count("worker-0") == 1


def test_a_worker_that_fails_whenever_it_starts_ends_all(tmp_path, capfd):
    then = "if me == ('worker', 1): sys.exit(5)\ntime.sleep(60)"
    assert run(tmp_path, then) == 5
    assert notes(tmp_path).count("worker-1") == 3
    assert '{"failing": "worker:1", "exit code": 5, "times": 3}' in capfd.readouterr().err


def test_all_are_started_again_when_a_server_dies(tmp_path):
    then = (
        "if me[0] == 'chief': wait('ps', 2); wait('worker-0', 2); sys.exit(0)\n"
        "if me[0] == 'ps' and runs('ps') < 2: wait('worker-0', 1); wait('chief', 1); os.kill(os.getpid(), 9)\ntime.sleep(60)"
    )
    assert run(tmp_path, then) == 0
    assert notes(tmp_path).count("chief-0") == 2


def test_restarts_are_counted(tmp_path):
    then = f"if me[0] == 'chief': sys.exit({SERVER_LOST})\ntime.sleep(60)"
    assert run(tmp_path, then, restarts=2) == SERVER_LOST
    assert notes(tmp_path).count("chief-0") == 3


@pytest.mark.slow
def test_a_worker_that_hangs_before_it_gives_any_sign_of_life_is_started_again(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(cluster, "_STARTS", 3.0)
    then = (  # the others beat as heartbeats do
        "if me == ('worker', 1) and runs('worker-1') == 1: time.sleep(60)\n"
        "import struct\n"
        "beats = pathlib.Path(os.environ['KERAS_DLRM_HEARTBEATS'], os.environ['KERAS_DLRM_PROCESS'])\n"
        "for count in range(600):\n"
        "    beats.write_bytes(struct.pack('<qqq', 0, 0, count))\n"
        "    if me[0] == 'chief' and runs('worker-1') == 2: sys.exit(0)\n"
        "    time.sleep(0.1)"
    )
    assert run(tmp_path, then, timeout=2.5) == 0
    assert notes(tmp_path).count("worker-1") == 2 and notes(tmp_path).count("ps-0") == 1
    assert '{"hung": "worker:1", "seconds without a sign of life": 3.0}' in capfd.readouterr().err


def test_ports_differ():
    cluster = loopback(3, 2)
    assert len({address for addresses in cluster.values() for address in addresses}) == 6


def test_the_task_comes_from_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert task() is None
    config = {"cluster": loopback(1, 1), "task": {"type": "ps", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert task() == ("ps", 0)


@pytest.mark.parametrize(
    "config",
    [
        "no json",
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"chief": ["a:1"], "worker": ["a:2"], "ps": ["a:3"]}, "task": {"type": "worker", "index": 1}},
        {"cluster": {"chief": ["a:1"], "worker": ["a:2"], "ps": ["a:3"]}, "task": {"type": "evaluator", "index": 0}},
    ],
)
def test_other_clusters_are_refused(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError, match="must name a cluster with chief, worker and ps"):
        task()
