"""Files as they come: empty parts among others, names that look like patterns, what is not a file, and damaged records."""

import gzip
import os
import socket
import string
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from helpers.table_logs import example, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data import criteo, tables
from keras_dlrm.data.foreign.pieces import NpzArray
from keras_dlrm.data.streaming.parquet import _checked_rows
from keras_dlrm.files.mapped import MappedArray
from keras_dlrm.sharding.plan import ShardingPlan
from keras_dlrm.sharding.planner.machine import Machine
from keras_dlrm.training.experiment import Experiment

pytestmark = pytest.mark.neutral

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("c")], label="y")
ROWS = [{"y": i % 2, "x": i / 2, "c": f"v{i}", "tags": [], "unused": i} for i in range(6)]
ENDINGS = ("csv", "tsv", "csv.gz", "tsv.gz", "parquet", "tfrecord", "tfrecord.gz")
BLANKS = (b"", b"\xef\xbb\xbf", b"\n", b" \r\n \n", b"\xef\xbb\xbf \n")


def empty_parts(folder: Path, ending: str) -> list[Path]:
    """Files without rows, as writers leave them."""
    contents = [b""]
    if "sv" in ending:
        header = b"y,x,c\n" if "csv" in ending else b"y\tx\tc\n"
        contents = [*BLANKS, header, header[:-1]]
    if ending.endswith("gz"):
        contents = [b"", *map(gzip.compress, contents)]
    if ending == "parquet":
        empty = [pl.DataFrame(), pl.DataFrame(ROWS)[:0]]
        empty.append(pl.DataFrame(schema=dict.fromkeys(["y", "x", "c", "unused"], pl.Null)))
        contents += [frame.write_parquet(folder / "e") or (folder / "e").read_bytes() for frame in empty]
        (folder / "e").unlink()
    for i, content in enumerate(contents):
        (folder / f"empty-{i}.{ending}").write_bytes(content)
    return sorted(folder.glob("empty-*"))


@pytest.mark.parametrize("ending", ENDINGS)
def test_empty_parts_hold_no_rows_and_stop_nothing(tmp_path: Path, ending: str) -> None:
    empty = empty_parts(tmp_path, ending)
    full = [save(ROWS[:4], tmp_path / f"a.{ending}"), save(ROWS[4:], tmp_path / f"b.{ending}")]
    expected = tables.preprocess(SCHEMA, full, output=tmp_path / "expected").split("train").arrays()
    parts = [path for one in full for path in (*empty, one)]
    log = tables.preprocess(SCHEMA, parts, test=empty[0], output=tmp_path / "out")
    np.testing.assert_equal(log.split("train").arrays(), expected)
    assert len(log.split("test")) == 0
    for path in empty:
        with pytest.raises(ValueError, match=f"{path.name}.*(empty|no rows)"):
            tables.preprocess(SCHEMA, [path, path], output=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_empty_days_of_criteo_hold_no_rows(tmp_path: Path) -> None:
    line = "\t".join(["1", *["3"] * 13, *["a"] * 26]) + "\n"
    days = [tmp_path / f"day_{i}" for i in range(len(BLANKS))]
    for path, blank in zip(days, BLANKS, strict=True):
        path.write_bytes(blank)
    days[1].write_text(line * 3)
    log = criteo.preprocess([*days[:3], tmp_path / "day_1"], tmp_path / "out")
    assert {name: len(log.split(name)) for name in log.splits} == {"train": 3, "test": 2, "valid": 1}
    with pytest.raises(ValueError, match="no rows are left; the inputs are empty"):
        criteo.preprocess([days[0], *days[2:]], tmp_path / "none")


NAMES = st.text(string.ascii_letters + "[]*?~\\\n {}%=$'\"é✓!#&;|.-", min_size=1, max_size=12).filter(
    lambda name: name.strip(".") and not name.endswith(".gz")
)


@pytest.mark.slow
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(folder=NAMES, name=NAMES, ending=st.sampled_from(ENDINGS), relative=st.booleans())
def test_what_exists_literally_is_taken_literally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, name: str, ending: str, relative: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    place = (Path() if relative else tmp_path) / folder
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        path.unlink()
    # Written elsewhere: only reading is looked at.
    os.replace(save(ROWS[:3], tmp_path / f"plain.{ending}"), place / f"{name}.{ending}")
    output = {"output": tmp_path / "out", "overwrite": True}
    found = tables.preprocess(SCHEMA, str(place / f"{name}.{ending}"), **output).split("train").arrays()
    assert found[1].tolist() == [0, 1, 0] and found[0]["dense"].ravel().tolist() == [0, 0.5, 1]
    # A pattern within a folder that exists literally.
    assert len(tables.preprocess(SCHEMA, str(place / f"*.{ending}"), **output).split("train")) == 3 or name[0] == "."


NAMES_OF_COLUMNS = st.text(min_size=1, max_size=8).filter(lambda s: "\0" not in s and s.isprintable() or s in "\n\t")


@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(names=st.lists(NAMES_OF_COLUMNS, min_size=3, max_size=3, unique=True), ending=st.sampled_from(ENDINGS))
def test_columns_may_have_any_names(tmp_path: Path, names: list[str], ending: str) -> None:
    y, x, c = names
    schema = kd.Schema(dense=[x], categorical=[kd.Categorical(c)], label=y)
    rows = [{y: i % 2, x: float(i), c: f"v{i}", "tags, of": "", "tags": []} for i in range(3)]
    log = tables.preprocess(schema, save(rows, tmp_path / f"log.{ending}"), output=tmp_path / "out", overwrite=True)
    assert log.split("train").arrays()[0]["sparse"].ravel().tolist() == [1, 2, 3]
    again = kd.data.open(tmp_path / "out")
    assert again.schema.dense_names == (x,) and list(again.preprocessor.vocabularies) == [c]


def no_files(folder: Path) -> list[Path]:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(folder)  # The path of a socket has some hundred bytes at most.
        bound.bind("socket")
        os.chdir(here)
    (folder / "folder").mkdir()
    (folder / "null").symlink_to("/dev/null")
    return [folder / name for name in ("pipe", "socket", "folder", "null")]


READERS = {
    **{ending: lambda path, out: tables.preprocess(SCHEMA, path, output=out) for ending in ENDINGS},
    "txt": lambda path, out: criteo.preprocess(path, out),
    "npz": lambda path, out: NpzArray(path, "a"),
    "npy": lambda path, out: MappedArray.npy(path),
    "schema.yaml": lambda path, out: kd.Schema.load(path),
    "schema.json": lambda path, out: kd.Schema.load(path),
    "run.yaml": lambda path, out: Experiment.load(path),
    "plan.json": lambda path, out: ShardingPlan.load(path),
    "machine.json": lambda path, out: Machine.of(path),
    "statistics.json": lambda path, out: kd.data.synthetic.Statistics.load(path),
}


@pytest.mark.parametrize("ending", READERS)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, ending: str) -> None:
    for path in no_files(tmp_path):
        link = tmp_path / f"{path.name}.{ending}"
        link.symlink_to(path)
        for given_path in (link, str(tmp_path / f"{path.name}*.{ending}")) if ending in ENDINGS else (link,):
            with pytest.raises(OSError, match=f"{link.name} is a (named pipe|socket|folder|device)"):
                READERS[ending](given_path, tmp_path / "out")


def test_damaged_and_foreign_records_are_bad_rows_with_their_column_named(tmp_path: Path) -> None:
    whole = [example({"y": 1, "x": 2.0, "c": -1}) for _ in range(4)]
    odd = tf.train.Example.FromString(whole[0])
    odd.features.feature["c"].bytes_list.value.append(b"caf\xe9")
    wrong = [whole[0][:-1], b"\xff" * 9, odd.SerializeToString(), example({"y": 1, "x": "two", "c": 3})]
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 9)], label="y")
    for ending in ("tfrecord", "tfrecord.gz"):
        path = tmp_path / f"log.{ending}"
        with tf.io.TFRecordWriter(
            str(path), tf.io.TFRecordOptions("GZIP" if ending.endswith("gz") else None)
        ) as writer:
            for pair in zip(whole, wrong, strict=True):
                for record in pair:
                    writer.write(record)
        log = tables.preprocess(schema, path, output=tmp_path / ending, on_error="skip")
        assert len(log.split("train")) == 4
        found = [(bad["row"], bad["column"]) for bad in log.manifest["bad_rows"]["examples"]]
        assert found == [(1, ""), (3, ""), (5, "c"), (7, "x")]
        assert log.manifest["bad_rows"]["examples"][2]["value"] == r"caf\xe9"
        with pytest.raises(ValueError, match=f"log.{ending}, row 1: the record is not a tf.train.Example"):
            tables.preprocess(schema, path, output=tmp_path / "none")


def test_a_stream_passes_over_a_part_without_rows_whatever_its_columns(tmp_path):
    pl.DataFrame({"x": []}, schema={"x": pl.Null}).write_parquet(tmp_path / "empty.parquet")
    assert _checked_rows(tmp_path / "empty.parquet", ["x", "y"]) == 0
