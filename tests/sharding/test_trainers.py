"""The trainers as their users start them: real processes, killed, stopped, preempted, and resumed by other numbers of them."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import keras
import pytest
from helpers.children import environment, members, runs
from helpers.suite import suite_on

TRAINERS = Path(__file__).parents[2] / "trainers"
NAMES = {"tensorflow": "multi_worker", "jax": "jax_hybrid", "torch": "torch_hybrid"}
BACKEND = keras.backend.backend()
PLAN = {"tables": {"item": "row_wise", "user": "column-wise", "shop": "table_wise", "country": "replicate"}}
COMMON = ["--global-batch", "31", "--rows", "900", "--json"]


@pytest.fixture(scope="module")
def start(programs):
    """Start a trainer, for whose processes Keras is imported once."""

    def started(*arguments, backend=BACKEND):
        command = [programs / "python", TRAINERS / f"{NAMES[backend]}.py", *COMMON, *map(str, arguments)]
        return subprocess.Popen(
            command, env=environment(KERAS_BACKEND=backend), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return started


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1]), errors


def same(found, expected):
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5, abs=1e-6)
    for name, table in expected["tables"].items():
        assert found["tables"][name] == pytest.approx(table, rel=1e-5, abs=1e-4), name


def newest(folder):
    return max((int(path.name[5:]) for path in folder.glob("step_*")), default=0)


@pytest.fixture(scope="module")
def alone(start):
    """Forty steps of one process, never disturbed."""
    return finish(start("--processes", 1, "--steps", 40))[0]


@suite_on("torch")
def test_a_run_goes_on_with_other_processes_on_another_backend(start, alone, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN))
    folder = tmp_path / "run"
    first, _ = finish(start("--processes", 3, "--steps", 20, "--plan", plan, "--checkpoint", folder))
    assert first["losses"] == pytest.approx(alone["losses"][:20], rel=1e-5)
    assert len(first["bytes_per_step"]) == len(first["peak_rss_bytes"]) == 3
    other = {"tensorflow": "torch", "torch": "jax", "jax": "tensorflow"}[BACKEND]
    same(finish(start("--processes", 2, "--steps", 40, "--checkpoint", folder, backend=other))[0], alone)


@pytest.mark.parametrize(
    ("processes", "kills"), [pytest.param(2, 1, marks=suite_on("torch")), pytest.param(4, 20, marks=pytest.mark.soak)]
)
def test_killed_processes_cost_no_step(processes, kills, start, alone, tmp_path):
    """Any of them, at any moment: between two checkpoints, while one is written, while the run starts again."""
    steps = 40 * kills
    expected = alone if kills == 1 else finish(start("--processes", 1, "--steps", steps))[0]
    rng = random.Random(processes)
    folder = tmp_path / "run"
    process = start(
        "--processes", processes, "--steps", steps, "--checkpoint", folder, "--checkpoint-steps", 5, "--restarts", kills
    )  # fmt: skip
    for kill in range(kills):
        before = newest(folder)
        starting = kill % 3 == 2
        deadline = time.monotonic() + (rng.uniform(0.0, 10.0) if starting else 200)
        while newest(folder) <= before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.2))
        while len(victims := members(process)) < processes:
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.01)
        os.kill(rng.choice(victims), signal.SIGKILL)
        while any(map(runs, victims)):
            time.sleep(0.01)
    found, errors = finish(process)
    same(found, expected)
    assert len(found["losses"]) == steps
    assert errors.count("was killed by signal 9") == kills and f"restart {kills} of {kills}" in errors


@pytest.mark.soak
def test_the_processes_end_with_their_launcher(start, tmp_path):
    process = start("--processes", 2, "--steps", 1_000_000)
    deadline = time.monotonic() + 60
    while len(pids := members(process)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(3.0)
    process.kill()
    process.communicate(timeout=60)  # the others have its standard error, too
    while any(map(runs, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@suite_on("torch")
def test_a_preempted_run_saves_and_ends(start, tmp_path):
    process = start("--processes", 2, "--steps", 2000, "--checkpoint", tmp_path, "--checkpoint-steps", 30)
    deadline = time.monotonic() + 200
    while not any(tmp_path.glob("step_*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    assert process.returncode == 75
    last = max(int(path.name[5:]) for path in tmp_path.glob("step_*"))
    assert last % 10 == 0
    # It resumes from there.
    found, _ = finish(start("--processes", 1, "--steps", last + 5, "--checkpoint", tmp_path))
    assert len(found["losses"]) == last + 5


@suite_on("torch")
def test_a_process_that_hangs_is_named(start, tmp_path):
    saving = ["--checkpoint", tmp_path, "--checkpoint-steps", 5, "--restarts", 0]
    process = start("--processes", 2, "--steps", 2000, "--timeout", 10, *saving)
    deadline = time.monotonic() + 200
    while newest(tmp_path) == 0:  # then both train
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(members(process)[1], signal.SIGSTOP)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    # TensorFlow looks after its workers itself, and may be the first to give up.
    assert "no progress for 10 s in step" in errors or "process 0 of 2 ended with exit code 1" in errors
    assert "process 1 of 2 gives no sign of life" in errors or "no sign of life of [1]" in errors


@suite_on("torch")
def test_a_plan_of_unknown_tables_is_one_sentence(start, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text('{"tables": {"nope": "row_wise"}}')
    process = start("--processes", 1, "--steps", 1, "--plan", plan)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "there is no table 'nope'" in errors and "Traceback" not in errors


@suite_on("torch")
@pytest.mark.skipif(BACKEND == "jax", reason="JAX joins them itself")
def test_tasks_of_srun_that_would_each_train_alone_are_refused(start, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    process = start("--steps", 1)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "srun or mpirun started several processes, but each would train alone" in errors and "Traceback" not in errors
