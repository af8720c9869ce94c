"""Rows and files of tables that cannot be used: left out and counted, or named."""

from __future__ import annotations

import gzip
from datetime import date, datetime, time
from pathlib import Path

import polars as pl
import pytest
import tensorflow as tf
from helpers.table_logs import FORMATS, SCHEMA, example, make_rows, results, save, spoil

from keras_dlrm.data import tables
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral

SIMPLE = Schema(dense=["x"], categorical=[Categorical("c")], label="y")


@pytest.mark.slow
@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("split", [None, {"train": 0.6, "valid": 0.4}])
def test_skipped_rows_leave_the_output_of_the_files_without_them(
    tmp_path: Path, ending: str, split: dict[str, float] | None
) -> None:
    rows = make_rows(300)
    clean, dirty = save(rows, tmp_path / f"clean.{ending}"), save(spoil(rows), tmp_path / f"dirty.{ending}")
    log = tables.preprocess(SCHEMA, dirty, output=tmp_path / "a", split=split, on_error="skip")
    tables.preprocess(SCHEMA, clean, output=tmp_path / "b", split=split)
    assert results(tmp_path / "a") == results(tmp_path / "b")
    skipped = log.manifest["bad_rows"]
    assert skipped["skipped"] == len(skipped["examples"]) == len(spoil(rows)) - len(rows)
    first = skipped["examples"][0]
    assert (first["row"], first["column"], first["value"]) == (7 if "sv" in ending else 5, "click", "2")
    columns = [found["column"] for found in skipped["examples"]]
    assert columns[:5] == ["click", "given", "given", "tags", "given"]
    with pytest.raises(ValueError, match="more than max_skipped=2"):
        tables.preprocess(SCHEMA, dirty, output=tmp_path / "c", split=split, on_error="skip", max_skipped=2)
    assert not (tmp_path / "c").exists()
    with pytest.raises(ValueError, match="dirty.*column click: value '2' must be 0 or 1"):
        tables.preprocess(SCHEMA, dirty, output=tmp_path / "c", split=split)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1,2", "line 3: the row has 2 fields; the header has 3"),
        (b"1,2,a,b", "line 3: the row has 4 fields"),
        (b"", "line 3: the row has 1 fields"),
        (b'1,"2"5,a', "line 3: a quoted field does not end where a field ends"),
        (b'1,2,"a', "line 3: a quoted field does not end"),
        (b"1,2,\xff\xfe", "line 3: the row is not UTF-8"),
        (b"1,2," + b"a" * 2**20, "line 3: the line has more than 1,048,576 bytes"),
        (b"1,2x,a", "line 3, column x: value '2x' must be a number"),
        (b"0.5,2,a", "line 3, column y: value '0.5' must be 0 or 1"),
        (b"1.00000001,2,a", "line 3, column y: value '1.00000001' must be 0 or 1"),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_bad_line_is_named_or_left_out(tmp_path: Path, line: bytes, message: str, end: bytes) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(end.join([b"y,x,c", b"0,1,a", line, b"1,3,b", b""]))
    with pytest.raises(ValueError, match=message):
        tables.preprocess(SIMPLE, path, output=tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]
    log = tables.preprocess(SIMPLE, path, output=tmp_path / "out", on_error="skip")
    batch, label = log.split("train").arrays()
    assert label.tolist() == [0, 1] and batch["dense"].ravel().tolist() == [1, 3]
    assert log.manifest["bad_rows"]["skipped"] == 1


def test_quotes_line_ends_inside_them_and_a_byte_order_mark_are_read_as_they_should(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes('\ufeff"y",x,c\n1,"2","a,""b""\nc"\n0,3,p"q\n"1","",""\n2,1,z'.encode())
    log = tables.preprocess(SIMPLE, path, output=tmp_path / "out", on_error="skip")
    assert log.preprocessor.vocabularies["c"].values.to_list() == ['a,"b"\nc', 'p"q']
    batch, label = log.split("train").arrays()
    assert label.tolist() == [1, 0, 1] and batch["dense"].ravel().tolist() == [2, 3, 0]
    assert batch["sparse"].ravel().tolist() == [1, 2, -1]
    # The line of a row is that of its first field.
    assert log.manifest["bad_rows"]["examples"][0]["row"] == 6


@pytest.mark.parametrize("ending", ["csv.gz", "parquet", "tfrecord", "tfrecord.gz"])
def test_a_file_that_is_cut_short_stops_the_run_in_any_case(tmp_path: Path, ending: str) -> None:
    path = save(make_rows(500), tmp_path / f"log.{ending}")
    whole = path.read_bytes()
    for part in (whole[:-4], whole[:-8], whole[:-40], whole[: len(whole) // 2], b"nothing of the kind"):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=f"log.{ending} cannot be read"):
            tables.preprocess(SCHEMA, path, output=tmp_path / "out", on_error="skip")
    assert not (tmp_path / "out").exists()


def test_a_parquet_file_that_makes_polars_panic_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(make_rows(20), tmp_path / "log.parquet")

    def panics(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("assertion `left == right` failed")

    monkeypatch.setattr(pl.LazyFrame, "collect", panics)
    with pytest.raises(ValueError, match="log.parquet cannot be read as a table: assertion"):
        tables.preprocess(SCHEMA, path, output=tmp_path / "out", on_error="skip")
    assert [p.name for p in tmp_path.iterdir()] == ["log.parquet"]


def test_records_that_are_no_examples_or_hold_other_kinds_are_bad_rows(tmp_path: Path) -> None:
    rows = [example({"y": 1, "x": 2.0, "c": "a"}), b"\xff\xff\xff", example({"y": 0, "x": [1.0, 2.0], "c": "b"})]
    rows += [example({"y": 0, "x": 7, "c": 5}), example({"y": 1.0, "c": [1, 2]}), example({"y": "1", "x": "3"})]
    odd = tf.train.Example.FromString(rows[0])
    odd.features.feature["c"].bytes_list.value[0] = b"\xff"
    with tf.io.TFRecordWriter(str(tmp_path / "log.tfrecord")) as writer:
        for row in [*rows, odd.SerializeToString()]:
            writer.write(row)
    log = tables.preprocess(SIMPLE, tmp_path / "log.tfrecord", output=tmp_path / "out", on_error="skip")
    batch, label = log.split("train").arrays()
    assert label.tolist() == [1, 0, 1] and batch["dense"].ravel().tolist() == [2, 7, 3]
    assert batch["sparse"].ravel().tolist() == [1, 2, -1]
    found = [(bad["row"], bad["column"], bad["reason"]) for bad in log.manifest["bad_rows"]["examples"]]
    assert found[:2] == [(1, "", "the record is not a tf.train.Example"), (2, "x", "must be a single number")]
    assert found[2][:2] == (4, "c") and "hotness=1" in found[2][2]
    assert found[3] == (6, "c", "must be UTF-8 text")


def test_where_every_row_is_skipped_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("y,x,c\n7,1,a\n8,1,a\n")
    for schema in (SIMPLE, Schema(dense=["x"], label="y")):
        with pytest.raises(ValueError, match="no rows are left, 2 were skipped: .*line 2, column y: value '7'"):
            tables.preprocess(schema, tmp_path / "log.csv", output=tmp_path / "out", on_error="skip")
    assert not (tmp_path / "out").exists()


def test_numbers_are_the_same_text_whatever_kind_their_neighbors_are(tmp_path: Path) -> None:
    numbers = [0.1, 1e-5, 3.0]
    found = []
    for others in ([], ["a"]):
        path = tmp_path / f"{len(others)}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for value in [*numbers, *others]:
                writer.write(example({"y": 1, "x": 2.0, "c": value}))
        log = tables.preprocess(SIMPLE, path, output=tmp_path / f"out{len(others)}")
        found.append(log.preprocessor.vocabularies["c"].values.to_list())
    assert found[1] == [*found[0], "a"]


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    path = save(make_rows(20), tmp_path / "log.csv")
    for arguments, message in (
        ({"on_error": "ignore"}, "on_error='ignore' is unknown"),
        ({"max_skipped": -1}, "max_skipped=-1"),
        ({"workers": 0}, "tables: workers=0"),
        ({"vocabulary": "frozen"}, "needs a preprocessor"),
    ):
        with pytest.raises(ValueError, match=message):
            tables.preprocess(SCHEMA, path, output=tmp_path / "out", **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give a schema"):
        tables.preprocess(None, path, output=tmp_path / "out")


def test_a_column_of_another_kind_stops_the_run(tmp_path: Path) -> None:
    pl.DataFrame({"y": [1], "x": [[1.0]], "c": ["a"]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(TypeError, match="column 'x': a dense column holds numbers"):
        tables.preprocess(SIMPLE, tmp_path / "log.parquet", output=tmp_path / "out", on_error="skip")
    for name, values in {"x": [date(2020, 1, 1), datetime(2020, 1, 1), time(1), b"1"], "c": [date(2020, 1, 1), b"a"]}.items():
        for value in values:
            for schema in (SIMPLE, Schema(dense=["x"], categorical=[Categorical("c", 5)], label="y")):
                pl.DataFrame({"y": [1], "x": [1.0], "c": [3], name: [value]}).write_parquet(tmp_path / "log.parquet")
                with pytest.raises(TypeError, match=rf"log.parquet.*column '{name}'"):
                    tables.preprocess(schema, tmp_path / "log.parquet", output=tmp_path / "out", on_error="skip")
    (tmp_path / "log.tsv").write_bytes(gzip.compress(b"y\tx\tc\n"))
    with pytest.raises(ValueError, match="first line must be the names"):
        tables.preprocess(SIMPLE, tmp_path / "log.tsv", output=tmp_path / "out")
