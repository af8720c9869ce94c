"""The processed directory: written complete or not at all, read back as it was."""

import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm.data as data
from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.files.checksums import sealed
from keras_dlrm.schema.schema import Categorical, Dense, Schema

pytestmark = pytest.mark.neutral

SCHEMA = Schema(
    dense=["I1", "I2"], categorical=[Categorical("C1", 7), Categorical("tags", 5, hotness=3)], label="click"
)


def make_batch(rows, seed=0, schema=SCHEMA):
    random = np.random.default_rng(seed)
    batch = {
        "dense": random.standard_normal((rows, 2), dtype=np.float32),
        "sparse": random.integers(-1, 5, (rows, 4)).astype(np.int32),
    }
    if schema.weighted:
        batch["weights"] = random.random((rows, 4), dtype=np.float32)
    return batch, random.integers(0, 2, rows).astype(np.float32)


def write(output, schema=SCHEMA, **rows):
    with PackedWriter(output, schema) as writer:
        for split, n in rows.items():
            writer.begin(split)
            if n:
                writer.append(split, *make_batch(n, schema=schema))
    return data.open(output)


@pytest.mark.parametrize("weighted", [False, True])
def test_what_was_written_is_read_back(tmp_path, weighted):
    schema = Schema(SCHEMA.dense, SCHEMA.categorical, "click", weighted)
    log = write(tmp_path / "log", schema, valid=3, train=10)
    batch, label = make_batch(10, schema=schema)
    part = log.split("train")
    arrays, labels = part.arrays()
    assert log.schema == schema and log.splits == ("train", "valid") and len(part) == 10 and log.best is None
    assert log.preprocessor.schema == schema
    assert set(arrays) == set(schema.input_names)
    for name, array in arrays.items():
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, batch[name])
    np.testing.assert_array_equal(labels, label)
    assert {a.dtype.name for a in arrays.values()} == {"float32", "int32"} and labels.dtype == np.float32


@given(sizes=st.lists(st.integers(0, 9), max_size=5), batch_size=st.integers(1, 12))
def test_any_batches_in_are_the_same_rows_in_any_batches_out(tmp_path_factory, sizes, batch_size):
    output = tmp_path_factory.mktemp("log") / "out"
    parts = [make_batch(n, seed=i) for i, n in enumerate(sizes)]
    with PackedWriter(output, SCHEMA) as writer:
        writer.begin("test")
        for batch, label in parts:
            writer.append("test", batch, label)
    found = list(data.open(output).split("test").batches(batch_size))
    assert [len(y) for _, y in found[:-1]] == [batch_size] * max(len(found) - 1, 0)
    assert sum(len(y) for _, y in found) == sum(sizes)
    if sum(sizes):
        for name in ("dense", "sparse"):
            np.testing.assert_array_equal(
                np.concatenate([b[name] for b, _ in found]), np.concatenate([b[name] for b, _ in parts])
            )


def test_only_dense_or_only_categorical_columns(tmp_path):
    with PackedWriter(tmp_path / "d", Schema(dense=["x"])) as writer:
        writer.append("train", {"dense": np.ones((2, 1), np.float32)}, np.array([[0], [1]]))
    with PackedWriter(tmp_path / "c", Schema(categorical=[Categorical("c", 3)])) as writer:
        writer.append("train", {"sparse": np.array([[2]])}, [1])
    assert list(data.open(tmp_path / "d").split("train").arrays()[0]) == ["dense"]
    assert list(data.open(tmp_path / "c").split("train").arrays()[0]) == ["sparse"]


def test_empty_split_has_no_batches(tmp_path):
    part = write(tmp_path / "log", train=0).split("train")
    assert len(part) == 0 and list(part.batches(4)) == []
    assert part.arrays()[0]["sparse"].shape == (0, 4)


def test_half_written_output_is_never_visible(tmp_path):
    output = tmp_path / "log"
    with pytest.raises(RuntimeError, match="stop"), PackedWriter(output, SCHEMA) as writer:
        writer.append("train", *make_batch(4))
        assert not output.exists()
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_on_a_full_disk_nothing_is_left_and_the_output_is_named(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit to the size of files is what stands in for the disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for rows in (100, 5000):  # full at the end, where buffers are written, or before
            with pytest.raises(OSError, match="log: not written, the disk is full"):
                write(tmp_path / "log", train=rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_killed_writer_left_goes_with_the_next_one_and_a_living_one_stays(tmp_path):
    killed = """
import os, signal, sys
import numpy as np
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.schema.schema import Schema
writer = PackedWriter(sys.argv[1], Schema(dense=["x"]))
writer.append("train", {"dense": np.ones((1, 1))}, [0])
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "log")], cwd=root, check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".writing-")
    with pytest.raises(RuntimeError, match="stop"), PackedWriter(tmp_path / "log", SCHEMA) as first:
        assert not left.exists()
        write(tmp_path / "log", train=3)  # a second one at the same time
        assert first.partial.exists()
        raise RuntimeError("stop")
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_existing_output_is_not_overwritten_unless_asked(tmp_path):
    write(tmp_path / "log", train=3)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        PackedWriter(tmp_path / "log", SCHEMA)
    with PackedWriter(tmp_path / "log", SCHEMA, overwrite=True) as writer:
        writer.append("test", *make_batch(5))
    assert data.open(tmp_path / "log").splits == ("test",)
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_overwrite_that_fails_keeps_the_old_directory(tmp_path):
    write(tmp_path / "log", train=3)
    with pytest.raises(ValueError, match="label"), PackedWriter(tmp_path / "log", SCHEMA, overwrite=True) as writer:
        writer.append("train", make_batch(2)[0], [0, 2])
    assert len(data.open(tmp_path / "log").split("train")) == 3


def test_overwrite_leaves_foreign_directories_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(FileExistsError, match="not a processed directory"):
        PackedWriter(tmp_path / "photos", SCHEMA, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        PackedWriter(tmp_path / "file", SCHEMA)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda b, y: b["sparse"].__setitem__((1, 0), 7), ValueError, "'C1': id 7 in row 1"),
        (lambda b, y: b["dense"].__setitem__((2, 1), np.nan), ValueError, "'I2'.*row 2"),
        (lambda b, y: y.__setitem__(1, 0.5), ValueError, "'click' is 0.5 in row 1"),
        (lambda b, y: b.pop("sparse"), KeyError, "'sparse' is missing"),
    ],
)
def test_writing_validates(tmp_path, change, error, message):
    batch, label = make_batch(4)
    change(batch, label)
    with pytest.raises(error, match=message), PackedWriter(tmp_path / "log", SCHEMA) as writer:
        writer.append("train", batch, label)


def test_writer_refuses_wrong_uses(tmp_path):
    with pytest.raises(ValueError, match="no vocabulary_size"):
        PackedWriter(tmp_path / "log", Schema(categorical=[Categorical("c")]))
    with PackedWriter(tmp_path / "log", SCHEMA) as writer:
        with pytest.raises(ValueError, match="split 'dev' is unknown"):
            writer.begin("dev")
        with pytest.raises(ValueError, match="4 rows and the label 3"):
            writer.append("train", make_batch(4)[0], [0, 1, 0])
        with pytest.raises(ValueError, match="shape"):
            writer.append("train", make_batch(4)[0], np.zeros((4, 2)))
        with pytest.raises(ValueError, match="written by the writer"):
            writer.note("splits", {})


def test_opening_what_is_not_a_processed_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such directory"):
        data.open(tmp_path / "absent")
    with pytest.raises(ValueError, match="not a processed directory: it has no manifest.json"):
        data.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "web app"}')
    with pytest.raises(ValueError, match="does not say format"):
        data.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        data.open(tmp_path)
    with pytest.raises(NotADirectoryError, match="is a file"):
        data.open(tmp_path / "manifest.json")


def test_another_version_of_the_format_is_refused(tmp_path):
    write(tmp_path / "log", train=2)
    path = tmp_path / "log" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        data.open(tmp_path / "log")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["train/dense.npy", "train/sparse.npy", "train/label.npy", "schema.json", "preprocessor.json"])
def test_a_flipped_bit_is_found_when_a_log_is_opened(tmp_path, file, monkeypatch):
    write(tmp_path / "log", train=20)
    flip(tmp_path / "log" / file, -5)
    with pytest.raises(ValueError, match=rf"{file} is damaged: its SHA-256"):
        data.open(tmp_path / "log")
    monkeypatch.setattr(layout, "CHECKED_BYTES", 0)  # of a large log
    with pytest.raises(ValueError, match=rf"{file} is damaged"):
        data.open(tmp_path / "log", verify=True)
    if file == "preprocessor.json":
        with pytest.raises(ValueError, match="preprocessor.json is damaged"):
            _ = data.open(tmp_path / "log").preprocessor
    elif file == "schema.json":
        with pytest.raises(ValueError, match="schema.json is damaged"):
            data.open(tmp_path / "log")
    else:
        assert len(data.open(tmp_path / "log").split("train")) == 20  # sizes and headers alone


def test_sizes_and_the_manifest_are_checked_however_large_a_log_is(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "CHECKED_BYTES", 0)
    write(tmp_path / "log", train=20, test=4)
    path = tmp_path / "log" / "test" / "label.npy"
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(ValueError, match=r"label.npy is damaged or cut short \(145 bytes, 144 were written\)"):
        data.open(tmp_path / "log")
    path.unlink()
    with pytest.raises(ValueError, match=r"label.npy is missing, though manifest.json lists it"):
        data.open(tmp_path / "log")
    flip(tmp_path / "log" / "manifest.json", -5)
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        data.open(tmp_path / "log")


@pytest.mark.parametrize("files", [{"../secret": {"bytes": 1, "sha256": ""}}, {"schema.json": 3}, {"a": {"bytes": 1}}, [], None])
def test_a_manifest_that_lists_no_files_of_its_folder_is_refused(tmp_path, files):
    write(tmp_path / "log", train=2)
    path = tmp_path / "log" / "manifest.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), "files": files})))
    with pytest.raises(ValueError, match=r"manifest.json (names the file '../secret', which is not inside|is damaged)"):
        data.open(tmp_path / "log")


def test_the_version_before_is_read_without_checks(tmp_path):
    write(tmp_path / "log", train=20)
    path = tmp_path / "log" / "manifest.json"
    path.write_text(json.dumps({"format": layout.FORMAT, "version": 1, "splits": {"train": 20}}))
    flip(tmp_path / "log" / "train" / "dense.npy", -5)
    assert len(data.open(tmp_path / "log").split("train")) == 20
    with pytest.raises(ValueError, match="version 1 of the format, which has no checksums"):
        data.open(tmp_path / "log", verify=True)


def test_a_log_stays_itself_when_the_program_changes_its_folder(tmp_path, monkeypatch):
    for name, rows in (("one", 8), ("two", 9)):
        write(tmp_path / name / "log", train=rows)
    monkeypatch.chdir(tmp_path / "one")
    log = data.open("log")
    part = log.split("train")
    dataset = pickle.loads(pickle.dumps(part.dataset(8)))  # as worker processes get it
    monkeypatch.chdir(tmp_path / "two")
    assert len(log.split("train")) == 8 and log.preprocessor.schema == SCHEMA
    for found in (log.split("train").arrays(), dataset[0], pickle.loads(pickle.dumps(part)).arrays()):
        np.testing.assert_array_equal(found[0]["dense"], part.arrays()[0]["dense"])
    (tmp_path / "current").symlink_to("one/log")
    log = data.open(tmp_path / "current")
    os.replace(tmp_path / "one", tmp_path / "gone")
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("two/log")
    with pytest.raises(ValueError, match="dense.npy is missing"):
        log.split("train")


@pytest.mark.parametrize("keep", [0, 40, -4])
def test_truncated_array_is_one_clear_error(tmp_path, keep):
    log = write(tmp_path / "log", train=20)
    path = tmp_path / "log" / "train" / "sparse.npy"
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(ValueError, match="sparse.npy is damaged or cut short"):
        log.split("train")


def test_missing_and_mismatched_arrays(tmp_path):
    log = write(tmp_path / "log", train=20)
    np.save(tmp_path / "log" / "train" / "dense.npy", np.zeros((20, 3), np.float32))
    with pytest.raises(ValueError, match=r"holds float32 \(20, 3\); the schema needs float32 \(20, 2\)"):
        log.split("train")
    (tmp_path / "log" / "train" / "dense.npy").unlink()
    with pytest.raises(ValueError, match="dense.npy is missing"):
        log.split("train")
    with pytest.raises(KeyError, match="no split 'test'"):
        log.split("test")
    (tmp_path / "log" / "schema.json").unlink()
    with pytest.raises(ValueError, match="schema.json is missing"):
        data.open(tmp_path / "log")


def test_batch_size_is_checked(tmp_path):
    part = write(tmp_path / "log", train=2).split("train")
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="batch_size"):
            part.batches(wrong)


def test_identity_preprocessor_takes_dense_transforms_as_done(tmp_path):
    schema = Schema(dense=[Dense("x", transform="quantile")])
    with PackedWriter(tmp_path / "log", schema) as writer:
        writer.append("train", {"dense": np.array([[0.25]], np.float32)}, [1])
    log = data.open(tmp_path / "log")
    assert log.schema == schema
    assert log.preprocessor.transform({"x": [0.25]})["dense"].tolist() == [[0.25]]
