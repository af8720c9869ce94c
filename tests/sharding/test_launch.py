"""The launcher: its processes share the machine's cores out, end with it, and are watched once they tell their steps."""

import os
import signal
import subprocess
import sys
import time

import keras
import pytest
from helpers.children import members, runs

from keras_dlrm.sharding.launch import launch
from trainers.hybrid import Steps

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which cores a process may run on")
PROGRAM = "import os, sys; open(f'{sys.argv[1]}/{os.getpid()}', 'w').write(repr(os.sched_getaffinity(0)))"


def cores_of(processes, folder):
    before = os.sched_getaffinity(0)
    assert launch(keras.backend.backend(), processes, command=[sys.executable, "-c", PROGRAM, str(folder)]) == 0
    assert os.sched_getaffinity(0) == before
    return [eval(path.read_text()) for path in folder.iterdir()]


def test_each_process_has_its_share_of_the_cores(tmp_path):
    mine = os.sched_getaffinity(0)
    found = cores_of(len(mine), tmp_path)
    assert sorted(core for cores in found for core in cores) == sorted(mine)
    assert all(len(cores) == 1 for cores in found)


def test_more_processes_than_cores_share_all_of_them(tmp_path):
    mine = os.sched_getaffinity(0)
    assert cores_of(len(mine) + 1, tmp_path) == [mine] * (len(mine) + 1)


TURNS = """
import os, threading
import keras_dlrm as kd
kd.sharding.start()
found = []
thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
raise SystemExit(found != [os.SCHED_BATCH])
"""


@pytest.mark.slow
def test_threads_of_a_started_process_take_turns(programs):
    # Alone: of two that end at once the first may take the store away while the other still joins.
    assert launch(keras.backend.backend(), 1, command=[programs / "python", "-c", TURNS]) == 0


MEMBER = """
import os, sys, time
import keras_dlrm as kd
from keras_dlrm.sharding.heartbeat import Heartbeat
if "start" in sys.argv:
    kd.sharding.start()
if "train" in sys.argv:
    Heartbeat().on_train_begin()
if "tell" in sys.argv:
    open(f"joined-{os.getpid()}", "w").close()
time.sleep(float(sys.argv[1]))
"""
# Processes that join a backend's cluster: JAX's, which start soonest, in the suite; the others' in the soak.
one_backend = pytest.mark.slow if keras.backend.backend() == "jax" else pytest.mark.soak


@one_backend
@pytest.mark.parametrize("what", [[], ["start"]], ids=["plain", "started"])
def test_a_program_that_tells_no_steps_is_left_alone(programs, what):
    assert launch(keras.backend.backend(), 1, timeout=3.0, command=[programs / "python", "-c", MEMBER, "4.5", *what]) == 0


@one_backend
def test_a_program_that_stops_in_training_is_ended(programs, capfd):
    command = [programs / "python", "-c", MEMBER, "600", "train"]
    assert launch(keras.backend.backend(), 1, timeout=3.0, command=command) == 1
    assert "no progress for 3 s in step 0: process 0 of 1 prepares data" in capfd.readouterr().err


# Process 1 says that it fails and takes its time to end; process 0 fails because of it, and ends at once.
LAST_WORDS = """
import json, os, time
rank = int(os.environ["RANK"])
path = os.environ["KERAS_DLRM_HEARTBEATS"] + "/failures"
while rank == 0 and not os.path.exists(path):
    time.sleep(0.01)
with open(path, "a") as file:
    file.write(json.dumps({"process": rank, "error": f"error {rank}", "code": 1, "ends": True}) + "\\n")
time.sleep(600 * rank)
os._exit(1)
"""


@pytest.mark.neutral
def test_the_process_that_failed_first_is_named_though_another_ends_first(capfd):
    assert launch("torch", 2, command=[sys.executable, "-c", LAST_WORDS]) == 1
    assert "process 1 of 2 ended with exit code 1 before its first step: error 1" in capfd.readouterr().err


@pytest.mark.neutral
def test_a_run_that_was_told_to_end_does_not_start_again(tmp_path):
    member = f"import os, time; open({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w').close(); time.sleep(600)"
    # Another signal ends it than the one it was sent.
    member = f"import signal; signal.signal(15, lambda *_: signal.raise_signal(6)); {member}"
    program = (
        "import sys; from keras_dlrm.sharding.launch import launch; "
        f"sys.exit(launch('torch', 1, restarts=3, command=[sys.executable, '-c', {member!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGABRT
    assert len(list(tmp_path.iterdir())) == 1


@one_backend
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["told", "killed"])
def test_the_processes_of_any_program_end_with_the_launcher(number, tmp_path):
    member = tmp_path / "member.py"
    member.write_text(MEMBER + "\n")
    program = (
        "import sys; from keras_dlrm.sharding.launch import launch; "
        f"sys.exit(launch({keras.backend.backend()!r}, 2, command=[sys.executable, {str(member)!r}, '600', 'start', 'tell']))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("joined-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pids = members(process)
    assert len(pids) == 2
    process.send_signal(number)
    process.wait(60)
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@one_backend
def test_a_process_that_starts_after_its_launcher_ended_ends(tmp_path):
    member = tmp_path / "member.py"
    member.write_text(f"import time\nwhile not __import__('os').path.exists({str(tmp_path / 'go')!r}): time.sleep(0.1)\n{MEMBER}")
    program = (
        "import sys; from keras_dlrm.sharding.launch import launch; "
        f"launch({keras.backend.backend()!r}, 1, command=[sys.executable, {str(member)!r}, '600', 'start'])"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (pids := members(process)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    (tmp_path / "go").touch()
    # The launcher is a zombie until its exit code is asked for.
    while runs(pids[0]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert process.wait() == -signal.SIGKILL


def test_steps_are_drawn_once_and_come_again():
    class Log:
        drawn = []

        def batch(self, number, batch_size):
            self.drawn.append(number)
            return number

    steps = Steps(Log(), 2**17, first=1, stop=6)
    assert [steps[i] for i in range(len(steps))] == [1, 0, 1, 0, 1]
    assert Log.drawn == [0, 1]
