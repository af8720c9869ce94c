"""Checkpoints of runs on parameter servers."""

import numpy as np
import pytest

from keras_dlrm.training.parameter_server import snapshot

SHAPES = {"a": (5, 2), "b/c": (3, 4)}


class Tables:
    """Tables in this process's memory, in parts of two rows."""

    slot_shapes = {"accumulator": ()}

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        self.values = {}
        for name, (rows, width) in SHAPES.items():
            self.values[name, None] = random.random((rows, width), np.float32)
            self.values[name, "accumulator"] = random.random(rows, np.float32)

    def read(self, name, slot=None):
        values = self.values[name, slot]
        return ((at, values[at : at + 2]) for at in range(0, len(values), 2))

    def write(self, name, values, slot=None):
        self.values[name, slot] = np.array(values)


class Variable:
    """A dense variable."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value)

    def assign(self, value):
        self.value = value


def test_tables_slots_other_values_and_losses_come_back(tmp_path):
    ours, kernel = Tables(0), Variable(np.eye(2, dtype=np.float32))
    losses = np.array([0.5, 0.25], np.float32)
    snapshot.save(tmp_path / "run", 2, SHAPES, ours, {"kernel": kernel}, losses)
    theirs, other = Tables(1), Variable(None)
    step, found = snapshot.restore(tmp_path / "run", SHAPES, theirs, {"kernel": other})
    assert step == 2 and np.array_equal(found, losses) and np.array_equal(other.value, np.eye(2))
    assert all(np.array_equal(theirs.values[key], values) for key, values in ours.values.items())


def test_the_last_two_are_kept_and_the_last_is_read(tmp_path):
    for step in (8, 9, 10):
        snapshot.save(tmp_path, step, SHAPES, Tables(step), {}, np.zeros(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-9"]
    (tmp_path / "step-11").mkdir()  # what a kill while an old one is removed leaves: not whole
    assert snapshot.restore(tmp_path, SHAPES, Tables(0), {})[0] == 10


def test_without_a_checkpoint_nothing_is_changed(tmp_path):
    tables = Tables(0)
    assert snapshot.restore(tmp_path / "none", SHAPES, tables, {})[0] == 0
    assert all(np.array_equal(Tables(0).values[key], values) for key, values in tables.values.items())


def test_one_of_another_model_is_refused(tmp_path):
    snapshot.save(tmp_path, 1, SHAPES, Tables(0), {}, np.zeros(1))
    with pytest.raises(ValueError, match="of another model or optimizer: its tables are"):
        snapshot.restore(tmp_path, {"a": (5, 2)}, Tables(0), {})
    with pytest.raises(ValueError, match=r"its others are \[\], here they are \['kernel'\]"):
        snapshot.restore(tmp_path, SHAPES, Tables(0), {"kernel": Variable(None)})
