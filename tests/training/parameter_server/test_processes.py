"""Parameter servers as a user starts them: a chief, workers and servers in processes of their own, some of which die.

The suite kills a worker once; `make soak` kills workers ten times.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from typing import Any

import keras
import numpy as np
import pytest
from helpers.children import ROOT, environment, runs

import keras_dlrm as kd
from keras_dlrm.parameter_server.cluster import SERVER_LOST, loopback
from keras_dlrm.sharding.plan import place
from trainers.hybrid import click_schema

PROGRAM = ROOT / "trainers" / "parameter_server.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="parameter servers are TensorFlow's"),
]
ENVIRONMENT = environment(KERAS_BACKEND="tensorflow")


class Run:
    """The trainer, and what it says on stderr while it runs."""

    def __init__(self, python: str, *args: object, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [python, str(PROGRAM), *map(str, args), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**ENVIRONMENT, **(environment or {})},
        )  # fmt: skip
        self.pids: dict[str, int] = {}
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:  # type: ignore[union-attr]
            self.said.append(line)
            if line.startswith('{"started"'):
                started = json.loads(line)
                self.pids[started["started"]] = started["pid"]

    def result(self) -> dict[str, Any]:
        """The JSON object that it ends with."""
        output = self.process.stdout.read()  # type: ignore[union-attr]
        assert self.process.wait(timeout=300) == 0, "".join(self.said[-60:])
        return json.loads(output.splitlines()[-1])

    def end(self) -> None:
        """End it if it has not ended."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()  # type: ignore[union-attr]
        self.process.stderr.close()  # type: ignore[union-attr]


@pytest.fixture
def start(programs):
    runs = []

    def started(*args: object, **options: Any) -> Run:
        runs.append(Run(str(programs / "python"), *args, **options))
        return runs[-1]

    yield started
    for run in runs:
        run.end()


def wait_for(condition: Any, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.05)


def one_process(steps: int, rows: int, seed: int, size: int) -> tuple[list[float], Any]:
    """Losses of a model that one process trains, and the model."""
    schema = click_schema(rows)
    log = kd.data.synthetic.PlantedClickLog(schema, seed=seed)
    model = kd.models.DLRM(schema, embedding_dim=16, bottom_mlp=[32, 16], top_mlp=[64, 32, 1], seed=seed)
    model.compile("adagrad", embedding_optimizer="rowwise_adagrad")
    losses = []
    for step in range(steps):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(*log.batch(step, size))))
    return losses, model


SYNCHRONOUS = ["--processes", 1, "--in-flight", 1, "--global-batch", 64, "--seed", 3, "--rows", 900]
RULES = ["--optimizer", "adagrad", "--embedding-optimizer", "rowwise_adagrad"]


def test_one_step_at_a_time_learns_what_one_process_learns_and_exports_it(start, tmp_path):
    losses, alone = one_process(steps=30, rows=900, seed=3, size=64)
    kinds = {"item": "row_wise", "user": "column_wise", "shop": "table_wise", "tags": "row_wise"}
    shapes = alone.embeddings.table_shapes
    place(3, shapes, {name: kinds.get(name, "replicate") for name in shapes}).save(tmp_path / "plan.json")
    result = start(
        *SYNCHRONOUS, *RULES, "--servers", 2, "--steps", 30, "--plan", tmp_path / "plan.json", "--export", tmp_path / "served",
        "--evaluation-steps", 30,
    ).result()  # fmt: skip
    np.testing.assert_allclose(result["losses"], losses, rtol=0, atol=1e-5)
    for name, rows in alone.embedding_tables().items():
        told = result["tables"][name]
        assert (told["rows"], told["width"]) == rows.shape
        np.testing.assert_allclose(told["sum"], rows.sum(dtype="f8"), atol=1e-3)
        np.testing.assert_allclose(told["sumsq"], (rows.astype("f8") ** 2).sum(), atol=1e-4)
    assert result["processes"] == ["worker:0", "ps:0", "ps:1", "chief:0"]
    assert min(result["bytes_per_step"]) > 0 and min(result["peak_rss_bytes"]) > 1e7
    # Evaluated and exported: the model of the last step.
    valid = list(kd.data.synthetic.PlantedClickLog(click_schema(900), seed=3).batches(1024, n_batches=4, part="valid"))
    expected = np.concatenate([alone.predict(x, verbose=0) for x, _ in valid])
    score = kd.metrics.scores(np.concatenate([y for _, y in valid]), expected)
    assert abs(result["evaluations"]["30"]["auc"] - score["auc"]) < 1e-5
    import tensorflow as tf

    serve = tf.saved_model.load(tmp_path / "served" / "1").signatures["serving_default"]
    given = {"dense": tf.constant(valid[0][0]["dense"]), "sparse": tf.constant(valid[0][0]["sparse"], tf.int64)}
    np.testing.assert_allclose(serve(**given)["probability"].numpy(), expected[:1024], rtol=0, atol=1e-5)


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_every_step_counts_once_when_a_worker_dies_and_the_other_hangs(times, start, tmp_path):
    steps = 300 * (1 + times)
    saving = ["--checkpoint", tmp_path, "--checkpoint-steps", 50]
    run = start(
        "--processes", 2, "--steps", steps, "--global-batch", 64, "--timeout", 6, *saving, "--evaluation-steps", 100
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "step_0000000050").exists())
    chance = random.Random(0)
    for _ in range(times):
        time.sleep(chance.uniform(0, 3))
        dies = chance.randrange(2)
        known = len(run.said)
        os.kill(run.pids[f"worker:{dies}"], signal.SIGKILL)
        wait_for(lambda known=known: any('{"started": "worker' in line for line in run.said[known:]))
    hangs = f"worker:{1 - dies}"
    os.kill(run.pids[hangs], signal.SIGSTOP)
    result = run.result()
    assert any('"hung": "' + hangs in line for line in run.said), "".join(run.said[-20:])
    assert result["steps"] == steps and result["resumed"] == 0
    assert len(result["losses"]) == steps and min(result["losses"]) > 0
    assert sorted(map(int, result["evaluations"])) == list(range(100, steps + 1, 100))


def test_a_run_that_lost_a_server_goes_on_from_its_checkpoint_with_the_same_losses(start, tmp_path):
    """Without the launcher: each process takes its role from TF_CONFIG."""
    args = [*SYNCHRONOUS, *RULES, "--checkpoint", tmp_path, "--checkpoint-steps", 20]
    cluster = loopback(1, 2)
    runs = {}
    for kind, index in (("ps", 0), ("ps", 1), ("worker", 0), ("chief", 0)):
        config = json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})
        runs[kind, index] = start(*args, "--steps", 100_000, environment={"TF_CONFIG": config})
    wait_for(lambda: (tmp_path / "step_0000000040").exists())
    runs["ps", 0].end()
    assert runs["chief", 0].process.wait(timeout=120) == SERVER_LOST
    assert any("a parameter server was lost; start all processes again" in line for line in runs["chief", 0].said)
    done = max(int(path.name.partition("_")[2]) for path in tmp_path.iterdir() if path.name.startswith("step_"))
    result = start(*args, "--servers", 1, "--steps", done + 10).result()
    assert result["resumed"] == done and result["steps"] == done + 10
    losses, _ = one_process(steps=done + 10, rows=900, seed=3, size=64)
    np.testing.assert_allclose(result["losses"], losses, rtol=0, atol=1e-5)


@pytest.mark.soak
def test_a_server_that_hangs_is_ended_and_named(start, tmp_path):
    saving = ["--checkpoint", tmp_path, "--checkpoint-steps", 20]
    run = start("--processes", 2, "--servers", 2, "--steps", 300, "--timeout", 6, *saving)
    wait_for(lambda: len(list(tmp_path.glob("step_*"))) >= 2)
    os.kill(run.pids["ps:0"], signal.SIGSTOP)
    assert run.result()["steps"] == 300
    assert any('"hung": "ps:0' in line for line in run.said), "".join(run.said[-20:])


WORKER_AWAY = """
import os, pathlib, signal, sys
from keras_dlrm import parameter_server as ps
note = pathlib.Path(sys.argv[1]) / "pid"
role = ps.task()
if role is None:
    sys.exit(ps.launch([sys.executable, *sys.argv], workers=2, servers=1))
if role == ("worker", 1):
    if note.exists():  # started again, and slow to come back
        import time
        time.sleep(600)
    note.write_text(str(os.getpid()))
if role[0] != "chief":
    ps.serve()

import keras_dlrm as kd
schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 1000)])
log = kd.data.synthetic.PlantedClickLog(schema, seed=0)

def build():
    model = kd.models.DLRM(schema, 4, bottom_mlp=[4], top_mlp=[4, 1], seed=0)
    model.compile("adagrad")
    return model

def batch(step):
    if step == 20:
        os.kill(int(note.read_text()), signal.SIGKILL)
    return log.batch(step, 32)

training = ps.ParameterServerTraining(build, steps=60)
try:
    training.fit(lambda step: (log.batch(step, 32)[0], [2.0] * 32))
except ValueError as error:
    assert "fit: label 2.0 in row 0; a binary cross-entropy" in str(error), error
training.fit(batch)
memory = training.peak_memory()
assert training.applied == 60 and memory["worker:0"] > 0 and memory["worker:1"] == 0, memory
raise KeyError("the program's own")
"""


def test_a_run_ends_while_a_worker_is_away(programs, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WORKER_AWAY)
    command = [programs / "python", program, tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=240, check=False)
    assert ended.returncode == 1 and "KeyError: \"the program's own\"" in ended.stderr, ended.stderr[-3000:]


@pytest.mark.soak
def test_all_end_with_a_launcher_that_is_killed(start):
    run = start("--processes", 1, "--servers", 1, "--steps", 1_000_000)
    wait_for(lambda: len(run.pids) == 3)
    run.process.kill()
    # The chief, too, although it waits for workers that are not there any more.
    wait_for(lambda: not any(map(runs, run.pids.values())), seconds=90)
