"""Reading ahead: in order, bounded, errors passed on, nothing left behind."""

import gc
import os
import pickle
import threading
import time

import pytest

from keras_dlrm.files.read_ahead import ReadAhead

pytestmark = pytest.mark.neutral


def square(n):
    return n * n


def threads():
    return {t for t in threading.enumerate() if t.name.startswith("keras_dlrm-read-ahead")}


def following(n, stop=20):
    return list(range(n + 1, stop))


@pytest.mark.parametrize("ahead", [0, 1, 3, 8])
def test_items_come_in_order_however_long_each_takes(ahead):
    def slow(n):
        time.sleep(0.002 * (n % 3))
        return n * n

    reader = ReadAhead(slow, ahead)
    assert [reader.get(n, following(n)) for n in range(20)] == [n * n for n in range(20)]


def test_no_more_than_asked_for_is_read_ahead():
    read = []
    reader = ReadAhead(lambda n: read.append(n), ahead=3)
    reader.get(0, following(0))
    time.sleep(0.05)
    assert sorted(read) == [0, 1, 2, 3]


def test_an_error_is_raised_where_its_item_is_asked_for_and_the_next_one_comes():
    def read(n):
        if n == 2:
            raise OSError("disk")
        return n

    reader = ReadAhead(read, ahead=2)
    assert [reader.get(n, following(n)) for n in (0, 1)] == [0, 1]
    with pytest.raises(OSError, match="disk"):
        reader.get(2, following(2))
    assert reader.get(3, following(3)) == 3


def test_a_jump_forgets_what_was_read_ahead():
    reader = ReadAhead(square, ahead=2)
    assert [reader.get(n, following(n)) for n in (0, 1, 15, 16, 0)] == [0, 1, 225, 256, 0]


def test_threads_end_with_their_reader():
    others = threads()  # of other tests' readers, which may end at any moment
    reader = ReadAhead(square, ahead=4)
    reader.get(0, following(0))
    own = threads() - others
    assert own
    del reader
    gc.collect()
    deadline = time.monotonic() + 5
    while own & threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not own & threads()


def test_it_travels_to_other_processes_without_its_threads():
    reader = ReadAhead(square, ahead=2)
    reader.get(0, following(0))
    other = pickle.loads(pickle.dumps(reader))
    assert other.get(3, following(3)) == 9


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
def test_a_fork_reads_on_with_threads_of_its_own():
    reader = ReadAhead(square, ahead=2)
    reader.get(0, following(0))
    child = os.fork()
    if not child:
        os._exit(0 if reader.get(1, following(1)) == 1 and reader.get(2, following(2)) == 4 else 1)
    assert os.waitpid(child, 0)[1] == 0
