"""The cache's policy against a Python dictionary; initial rows at any places; the file of rows."""

import os
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dlrm.embeddings.host.drawn_rows import DrawnRows
from keras_dlrm.embeddings.host.row_cache import RowCache
from keras_dlrm.embeddings.host.row_file import RowFile
from keras_dlrm.initializers import StackedTables

pytestmark = pytest.mark.neutral
ROWS, SLOTS = 12, 6
batches = st.lists(st.tuples(st.lists(st.integers(-1, ROWS - 1), min_size=1, max_size=9), st.booleans()), min_size=1, max_size=40)


class Model:
    """Values of rows, as they move between a device and a file."""

    def __init__(self):
        self.device, self.file = np.full(SLOTS, -1), {}

    def move(self, moves):
        """Carry moves out; a row's value is how often it was changed."""
        for slot, source, target in zip(moves.slots, moves.sources, moves.targets, strict=True):
            if target >= 0:
                self.file[target] = self.device[slot]
            self.device[slot] = self.file[source] if source >= 0 else 0


@pytest.mark.slow
@given(batches, st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_every_row_is_where_it_was_put_and_the_one_used_longest_ago_gives_way(batches, ahead):
    cache, model = RowCache(ROWS, SLOTS), Model()
    truth, recent = dict.fromkeys(range(ROWS), 0), OrderedDict()
    announced = []
    for number, (rows, changes) in enumerate(batches):
        rows = np.array(rows)
        wanted = {int(r) for r in rows if r >= 0}
        while True:
            slots, moves = cache.announce(rows, number, changes)
            model.move(moves)
            if slots is not None or not announced:
                break
            done, done_rows, done_slots, done_changes = announced.pop(0)
            check_step(cache, model, truth, done, done_rows, done_slots, done_changes)
        if slots is None:
            assert len(wanted) > SLOTS
            return
        if not ahead:
            # Least recently used: hits first, in the order of the batch, then what came in.
            hits = [r for r in dict.fromkeys(rows[rows >= 0].tolist()) if r in recent]
            misses = [r for r in dict.fromkeys(rows[rows >= 0].tolist()) if r not in recent]
            for row in hits:
                recent.move_to_end(row)
            gone = list(recent)[: max(0, len(recent) + len(misses) - SLOTS)]
            for row in gone:
                del recent[row]
            recent.update(dict.fromkeys(misses))
            assert sorted(cache.row_of[cache.row_of >= 0].tolist()) == sorted(recent)
            assert moves.rows.tolist() == misses
        announced.append((number, rows, slots, changes))
        if len(announced) > ahead:
            check_step(cache, model, truth, *announced.pop(0))
    while announced:
        check_step(cache, model, truth, *announced.pop(0))
    slots, places = cache.unwritten()
    model.file.update(zip(places.tolist(), model.device[slots].tolist(), strict=True))
    cache.clear()
    for row, value in truth.items():
        (slot,), (place,) = cache.find(np.array([row]))
        assert slot == -1
        assert (model.file[place] if place >= 0 else 0) == value


def check_step(cache, model, truth, number, rows, slots, changes):
    assert ((slots < 0) == (rows < 0)).all()
    for row, slot in {(int(r), int(s)) for r, s in zip(rows, slots, strict=True) if r >= 0}:
        assert cache.row_of[slot] == row
        assert model.device[slot] == truth[row]
        if changes:
            model.device[slot] += 1
            truth[row] += 1
    cache.done = number


@pytest.mark.slow
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 2**31 - 1), st.data())
@settings(max_examples=60, deadline=None)
def test_initial_rows_at_any_places_are_those_that_are_drawn_from_the_beginning_on(sizes, width, seed, data):
    initial = StackedTables(sizes, list(range(len(sizes))), seed=[seed, 1])
    _, whole = next(initial.parts(width))
    numbers = np.array(data.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=20)), np.int64)
    np.testing.assert_array_equal(DrawnRows(initial, width).rows(numbers), whole[numbers])


def test_initial_rows_far_into_a_table():
    initial = StackedTables([2**31 - 2], [0], seed=3)
    numbers = np.array([2**31 - 3, 10**9 + 1])
    expected = [initial.rows_of(0, int(n), int(n) + 1, 3)[0] for n in numbers]
    np.testing.assert_array_equal(DrawnRows(initial, 3).rows(numbers), expected)


@pytest.mark.slow
def test_a_file_leaves_nothing_and_takes_disk_as_it_grows(tmp_path):
    file = RowFile(tmp_path / "rows", 2**27, 32)
    assert file.disk == 0
    file.grow(3)
    assert 0 < file.disk < 2**27
    file.write(np.array([2, 0]), np.ones((2, 32), np.float32))
    np.testing.assert_array_equal(file.read(np.array([2, 1, 0]))[:, 0], [1, 0, 1])
    assert list((tmp_path / "rows").iterdir()) == []


def test_a_file_that_was_cut_short_is_an_error(tmp_path):
    file = RowFile(tmp_path, 100, 4)
    file.grow(100)
    os.truncate(file._file, 64)
    with pytest.raises(OSError, match=r"cut short, to 64 of 1,600 bytes.*restore the last checkpoint"):
        file.read(np.array([90]))


def test_a_full_disk_is_an_error_and_the_file_is_as_it_was(tmp_path, monkeypatch):
    file = RowFile(tmp_path, 100, 4)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match=r"no room for 1,600 more bytes: No space left on device. Nothing is lost") as error:
            file.grow(1)
    assert error.value.errno == 28
    file.grow(1)
    assert file.disk == 1600
