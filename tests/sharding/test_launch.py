"""The launcher's processes share the machine's cores out among them."""

import os
import sys

import keras
import pytest

from keras_dlrm.sharding.launch import launch
from keras_dlrm.sharding.trainer import Steps

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


def test_steps_are_drawn_once_and_come_again():
    class Log:
        drawn = []

        def batch(self, number, batch_size):
            self.drawn.append(number)
            return number

    steps = Steps(Log(), 2**17, first=1, stop=6)
    assert [steps[i] for i in range(len(steps))] == [1, 0, 1, 0, 1]
    assert Log.drawn == [0, 1]
