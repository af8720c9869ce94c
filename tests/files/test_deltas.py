"""Deltas of published versions as files: their chain, what they change, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from helpers.deltas import ROWS, WIDTH, seal, table, write_delta
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm import artifacts
from keras_dlrm.files.checksums import sealed
from keras_dlrm.files.deltas import FILE, Delta, chain, changed, state_of
from keras_dlrm.files.inventory import FORMAT, MANIFEST, VERSION

pytestmark = pytest.mark.neutral


@pytest.fixture
def folder(tmp_path):
    """Version 1, of which only the manifest counts here, and two deltas."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"a graph")
    seal(tmp_path / "1", MANIFEST, {"format": FORMAT, "version": VERSION})
    second = write_delta(tmp_path, 2, tmp_path / "1", {3: [1] * WIDTH, 500: [2] * WIDTH})
    write_delta(tmp_path, 3, second, {3: [9] * WIDTH, ROWS - 1: [4] * WIDTH})
    return tmp_path


def test_a_chain_begins_with_a_version_or_with_what_is_loaded(folder):
    first, second, third = (folder / name for name in ("1", "2.delta", "3.delta"))
    assert chain(third) == [first, second, third]
    assert chain(first) == [first]
    assert chain(third, {state_of(second), state_of(first)}) == [third]
    assert chain(third, {state_of(first)}) == [second, third]
    assert chain(third, {"another state"}) == [first, second, third]


def test_a_version_made_of_deltas_takes_their_place(folder):
    made = folder / "2"
    made.mkdir()
    seal(made, MANIFEST, {"format": FORMAT, "version": VERSION, "state": state_of(folder / "2.delta")})
    assert chain(folder / "3.delta") == [made, folder / "3.delta"]
    shutil.rmtree(folder / "1")
    shutil.rmtree(folder / "2.delta")
    assert chain(folder / "3.delta") == [made, folder / "3.delta"]


def test_a_base_that_is_missing_or_another_one_is_named(folder):
    seal(folder / "1", MANIFEST, {"format": FORMAT, "version": VERSION, "made": "again"})
    with pytest.raises(ValueError, match=r"2.delta is of another base: .*1 is not the version that it was written for; write"):
        chain(folder / "3.delta")
    shutil.rmtree(folder / "1")
    with pytest.raises(FileNotFoundError, match=r"2.delta changes version 1, which is not in .*; write a full version"):
        chain(folder / "3.delta")
    third = folder / "3.delta"
    manifest = json.loads((third / FILE).read_text())
    (third / FILE).write_text(json.dumps(sealed({**manifest, "base": {"number": 3, "state": "itself"}})))
    with pytest.raises(ValueError, match="its base is version 3"):
        chain(third)
    with pytest.raises(FileNotFoundError, match="give a delta that kd.export.delta wrote"):
        chain(folder / "7.delta")


@given(st.lists(st.dictionaries(st.integers(0, 30), st.integers(0, 255), max_size=8), max_size=4), st.integers(0, 25))
def test_rows_of_a_part_are_those_of_the_last_delta_that_has_them(changes, start):
    class Changes:
        def __init__(self, values):
            self.values = dict(sorted(values.items()))

        def rows(self, number):
            return np.array(list(self.values), np.int64)

        def stored(self, number, name):
            return np.array(list(self.values.values()), np.uint8).reshape(-1, 1)

    expected = dict.fromkeys(range(31), 0)
    for values in changes:
        expected |= values
    got = changed([Changes(values) for values in changes], 0, "codes", start, np.zeros((6, 1), np.uint8))
    assert got.ravel().tolist() == [expected[row] for row in range(start, start + 6)]


def test_stored_rows_are_read_as_they_were_written(folder):
    delta = Delta(folder / "3.delta")
    rows = table()
    stored = changed([Delta(folder / "2.delta"), delta], 0, "codes", 0, rows.view(np.uint8)).view(np.float32)
    rows[[3, 500, ROWS - 1]] = np.array([[9], [2], [4]])
    np.testing.assert_array_equal(stored, rows)
    assert delta.weights()["weights/0"] == 0
    assert write_delta(folder, 4, folder / "3.delta", {}).name == "4.delta"
    assert Delta(folder / "4.delta").stored(0, "codes").shape == (0, 4 * WIDTH)


@pytest.mark.parametrize("name", ["table_0_rows", "table_0_codes", "weights.npz", "delta.json"])
def test_a_file_that_is_cut_short_or_changed_is_named(folder, name):
    file = folder / "2.delta" / name
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"2.delta/{name} is damaged"):
            artifacts.verify(folder / "2.delta")
    file.write_bytes(whole)
    assert artifacts.verify(folder / "2.delta").kind == "delta"
    assert {file.name for file in artifacts.verify(folder).files} >= {"1/saved_model.pb", "2.delta/delta.json"}


def test_files_that_it_does_not_list_and_other_formats_are_refused(folder):
    (folder / "2.delta" / "more").touch()
    with pytest.raises(ValueError, match=r"2.delta/more is not listed in delta.json"):
        Delta(folder / "2.delta")
    (folder / "3.delta" / FILE).write_text(json.dumps(sealed({"format": "another", "version": 7})))
    with pytest.raises(ValueError, match="format='another', version=7; this release reads"):
        Delta(folder / "3.delta")
