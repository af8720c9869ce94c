"""Signs of life, and who is to blame: what the launcher sees of its processes."""

import signal
import sys
import time

import pytest

from keras_dlrm.sharding import heartbeat
from keras_dlrm.sharding.heartbeat import _Beats
from keras_dlrm.sharding.launch import _first
from keras_dlrm.sharding.watch import FOLDER, PROCESS, Failure, Watch

pytestmark = pytest.mark.neutral


@pytest.fixture
def process(tmp_path, monkeypatch):
    """This process, as number 1 of a run; its thread gives no signs of life by itself."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(PROCESS, "1")
    monkeypatch.setattr(heartbeat, "EVERY", 3600.0)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    beats = _Beats()
    beats.begin()
    return beats


def test_silence_is_counted_by_the_clock_of_the_watch_and_only_while_it_runs(process, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch(tmp_path)

    def after(seconds):
        now[0] += seconds
        return watch.look()

    assert after(0.5)[1] == (0, "begin", 0.0)
    process.say(3, "step")
    assert after(0.5)[1] == (3, "step", 0.0)
    assert [after(0.5)[1].silent for _ in range(3)] == [0.5, 1.0, 1.5]
    # The watch was stopped, and the process with it.
    assert after(7200.0)[1].silent == 2.5
    monkeypatch.setattr(time, "time", lambda: 1e12)  # a clock that is set
    process.say(3, "step")
    assert after(0.5)[1] == (3, "step", 0.0)


def test_an_exception_that_ends_a_process_is_told_before_it_is_printed(process, tmp_path, capsys):
    watch = Watch(tmp_path)
    assert watch.failures() == []
    process.fail(KeyboardInterrupt(), ends=False)
    sys.excepthook(ValueError, ValueError("row 7\nis bad"), None)
    assert watch.failures() == [
        Failure(1, "KeyboardInterrupt: ", 1, False), Failure(1, "ValueError: row 7 is bad", 1, True),
    ]  # fmt: skip
    shown = capsys.readouterr().err
    assert "ValueError: row 7\n" in shown and "is bad\n" in shown  # torch writes its rank before each line
    assert list(watch.look()) == [1]


@pytest.mark.parametrize(
    ("codes", "told", "first"),
    [
        ([1, 1, None], [1, 0], 1),  # the first to say so
        ([1, -signal.SIGKILL, 1], [0, 2], 1),  # killed without a word
        ([-signal.SIGABRT, 1], [1], 1),  # JAX aborts a process that lost another
        ([1, 3], [0], 1),  # os._exit
        ([-signal.SIGTERM, 1], [1], 0),
        ([None, -signal.SIGABRT], [], 1),
        ([1, 2], [], 0),
    ],
)
def test_the_process_that_failed_first_is_to_blame(codes, told, first):
    assert _first(codes, told) == first
