"""Tables of columns → a processed directory: fitted on the training rows, in file order, values checked."""

import gzip

import numpy as np
import polars as pl
import pytest

from keras_dlrm.data import tables
from keras_dlrm.data.tables import text as table_text
from keras_dlrm.schema.schema import Categorical, Dense, Schema

pytestmark = pytest.mark.neutral

SCHEMA = Schema(
    dense=[Dense("price", "log1p")], categorical=[Categorical("city"), Categorical("tags", hotness=2)], label="click"
)


def make_frame(rows, first=0):
    index = range(first, first + rows)
    return pl.DataFrame(
        {
            "unused": ["x"] * rows,
            "click": [i % 2 for i in index],
            "price": [None if i % 5 == 4 else float(i) for i in index],
            "city": [f"city{i // 4}" for i in index],
            "tags": [["a", "b"][: i % 3] for i in index],
        },
        schema_overrides={"tags": pl.List(pl.String)},
    )


def save(frame, path):
    if path.suffix == ".parquet":
        frame.write_parquet(path)
        return path
    flat = frame.with_columns(pl.col("tags").list.join("|"))
    text = flat.write_csv(separator="\t" if ".tsv" in path.name else ",").encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.parquet", "log.csv.gz"])
def test_every_format_gives_the_same_directory(tmp_path, name):
    path = save(make_frame(12), tmp_path / name)
    log = tables.preprocess(SCHEMA, path, output=tmp_path / "out")
    batch, label = log.split("train").arrays()
    assert log.splits == ("train",) and log.schema.table_sizes == {"city": 4, "tags": 3}
    assert label.tolist() == [0, 1] * 6
    np.testing.assert_allclose(batch["dense"][:5, 0], [*np.log1p(np.arange(4)), 0.0], rtol=1e-6)
    assert batch["sparse"][:5].tolist() == [[1, -1, -1], [1, 1, -1], [1, 1, 2], [1, -1, -1], [2, 1, -1]]


def test_vocabulary_comes_from_the_training_rows_only_and_unseen_values_go_to_the_oov_row(tmp_path):
    train, test = save(make_frame(8), tmp_path / "a.csv"), save(make_frame(8, first=4), tmp_path / "b.parquet")
    log = tables.preprocess(SCHEMA, train, test=test, output=tmp_path / "out")
    assert log.splits == ("train", "test") and log.schema.table_sizes["city"] == 3
    assert log.split("test").arrays()[0]["sparse"][:, 0].tolist() == [2] * 4 + [0] * 4


def test_split_cuts_the_rows_in_file_order_over_file_borders(tmp_path):
    save(make_frame(7), tmp_path / "part0.parquet")
    save(make_frame(13, first=7), tmp_path / "part1.parquet")
    split = {"train": 0.5, "valid": 0.2, "test": 0.3}
    for inputs in (str(tmp_path / "part*.parquet"), [tmp_path / "part0.parquet", tmp_path / "part1.parquet"]):
        log = tables.preprocess(SCHEMA, inputs, output=tmp_path / "out", split=split, overwrite=True)
        assert [len(log.split(s)) for s in log.splits] == [10, 4, 6]
        labels = np.concatenate([log.split(s).arrays()[1] for s in log.splits])
        assert labels.tolist() == [0, 1] * 10
        assert log.schema.table_sizes["city"] == 4  # cities of the first ten rows, and the OOV row


def test_files_of_many_parts_give_the_same_as_in_one(tmp_path, monkeypatch):
    path = save(make_frame(50), tmp_path / "log.csv")
    one = tables.preprocess(SCHEMA, path, output=tmp_path / "one", split={"train": 0.7, "test": 0.3})
    monkeypatch.setattr(table_text, "BLOCK_BYTES", 50)
    monkeypatch.setattr(table_text, "BLOCK_ROWS", 3)
    many = tables.preprocess(SCHEMA, path, output=tmp_path / "many", split={"train": 0.7, "test": 0.3})
    assert one.schema == many.schema
    for split in one.splits:
        for name in ("dense", "sparse"):
            np.testing.assert_array_equal(one.split(split).arrays()[0][name], many.split(split).arrays()[0][name])


def test_saved_preprocessor_maps_a_request_like_the_file(tmp_path):
    frame = make_frame(12)
    log = tables.preprocess(SCHEMA, save(frame, tmp_path / "log.csv"), output=tmp_path / "out")
    batch = log.preprocessor.transform(frame)
    for name in batch:
        np.testing.assert_array_equal(batch[name], log.split("train").arrays()[0][name])


def test_fitted_schema_needs_no_fit_and_checks_ids(tmp_path):
    schema = Schema(categorical=[Categorical("c", 3)], label="y")
    pl.DataFrame({"c": [0, 2, 1], "y": [0, 1, 1]}).write_csv(tmp_path / "good.csv")
    pl.DataFrame({"c": [0, 2, 3], "y": [0, 1, 1]}).write_csv(tmp_path / "bad.csv")
    log = tables.preprocess(schema, tmp_path / "good.csv", output=tmp_path / "out")
    assert log.schema == schema and log.split("train").arrays()[0]["sparse"].tolist() == [[0], [2], [1]]
    with pytest.raises(ValueError, match="bad.csv, line 4, column c: value '3'"):
        tables.preprocess(schema, tmp_path / "bad.csv", output=tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("click", "2", "log.csv, line 8, column click: value '2' must be 0 or 1"),
        ("click", None, "log.csv, line 8, column click: value '' must be 0 or 1"),
        ("click", "yes", "log.csv, line 8, column click: value 'yes' must be 0 or 1"),
        ("price", "cheap", "log.csv, line 8, column price: value 'cheap' must be a number"),
        ("price", "1e300", "log.csv, line 8, column price: value '1e300' is outside the range of float32"),
        ("tags", "a|b|c", "log.csv, line 8, column tags: value 'a|b|c' has 3 values but hotness=2"),
    ],
)
def test_bad_value_names_file_row_and_column(tmp_path, column, value, message, monkeypatch):
    monkeypatch.setattr(table_text, "BLOCK_ROWS", 4)
    frame = make_frame(12).with_columns(pl.col("tags").list.join("|"), pl.col("click", "price").cast(pl.String))
    values = frame[column].to_list()
    values[6] = value
    frame.with_columns(pl.Series(column, values, dtype=pl.String)).write_csv(tmp_path / "log.csv")
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        tables.preprocess(SCHEMA, tmp_path / "log.csv", output=tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]


def test_bad_arguments_are_clear_errors(tmp_path):
    path = save(make_frame(4), tmp_path / "log.csv")
    output, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="no such file"):
        tables.preprocess(SCHEMA, tmp_path / "absent.csv", output=output)
    with pytest.raises(FileNotFoundError, match="is a folder without tables"):
        tables.preprocess(SCHEMA, empty, output=output)
    with pytest.raises(FileNotFoundError, match="pattern"):
        tables.preprocess(SCHEMA, str(tmp_path / "*.parquet"), output=output)
    with pytest.raises(ValueError, match="empty list"):
        tables.preprocess(SCHEMA, [], output=output)
    with pytest.raises(KeyError, match="log.csv: column 'age' is missing"):
        tables.preprocess(Schema(dense=["age"], label="click"), path, output=output)
    with pytest.raises(KeyError, match="column 'label' is missing"):
        tables.preprocess(Schema(dense=["price"]), path, output=output)
    with pytest.raises(ValueError, match="either split"):
        tables.preprocess(SCHEMA, path, test=path, output=output, split={"train": 1.0})
    wrong = [({"train": 0.5}, "add up to 1"), ({"dev": 1.0}, "names 'dev'"), ({"train": 2.0}, "between 0 and 1")]
    for split, message in wrong:
        with pytest.raises(ValueError, match=message):
            tables.preprocess(SCHEMA, path, output=output, split=split)
    (tmp_path / "log.xlsx").touch()
    with pytest.raises(ValueError, match="ending says no format"):
        tables.preprocess(SCHEMA, tmp_path / "log.xlsx", output=output)
    with pytest.raises(ValueError, match="weighted=True"):
        tables.preprocess(Schema(categorical=[Categorical("c", 3)], weighted=True), path, output=output)
    (tmp_path / "log.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="cannot be read as a table"):
        tables.preprocess(SCHEMA, tmp_path / "log.parquet", output=output)


def test_existing_output_is_refused_before_any_work_and_progress_is_reported(tmp_path):
    path = save(make_frame(10), tmp_path / "log.csv")
    seen = []
    report = lambda *call: seen.append(call)  # noqa: E731
    tables.preprocess(SCHEMA, path, output=tmp_path / "out", split={"train": 0.8, "test": 0.2}, progress=report)
    assert (10, 10, "read") in seen and seen[-1] == (10, 10, "write")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        tables.preprocess(SCHEMA, tmp_path / "absent.csv", output=tmp_path / "out")


def test_an_output_that_is_a_link_is_written_where_it_leads(tmp_path):
    path = save(make_frame(6), tmp_path / "log.csv")
    (tmp_path / "disk" / "old").mkdir(parents=True)
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
        tables.preprocess(SCHEMA, path, output=tmp_path / name)
        with pytest.raises(FileExistsError, match="is a symbolic link to a folder with content"):
            tables.preprocess(SCHEMA, path, output=tmp_path / name, overwrite=True)
        assert (tmp_path / name).is_symlink() and (tmp_path / "disk" / name / "manifest.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "log.csv", "new", "old"]
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["new", "old"]


def test_empty_table_gives_an_empty_split(tmp_path):
    path = save(make_frame(4), tmp_path / "log.csv")
    save(make_frame(0), tmp_path / "none.csv")
    log = tables.preprocess(SCHEMA, path, test=tmp_path / "none.csv", output=tmp_path / "out")
    assert len(log.split("test")) == 0


@pytest.mark.parametrize(
    "text, word",
    [
        (b"click,price,city,tags\n1,2.0,a,b\n1,2.0,a,b,c,d\n", "header"),
        ("click,price,city,tags\n1,2.0,K\u00f6ln,b\n".encode("latin-1"), "UTF-8"),
        (b"click,price,city,city,tags\n1,2.0,a,b,c\n", "'city' occurs more than once"),
        (b"click,price,city,tags\n", "no rows"),
        (b"", "cannot be read"),
    ],
    ids=["ragged", "latin-1", "twice", "header only", "empty"],
)
def test_a_broken_text_file_is_named_and_nothing_is_written(tmp_path, text, word):
    (tmp_path / "log.csv").write_bytes(text)
    with pytest.raises(ValueError, match="log.csv.*" + word):
        tables.preprocess(SCHEMA, tmp_path / "log.csv", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_stands_for_the_tables_below_it(tmp_path):
    (folder := tmp_path / "log" / "more").mkdir(parents=True)
    for name in ("_SUCCESS", ".part-0.csv.crc", "notes.txt", "_old.csv"):
        (tmp_path / "log" / name).write_text("no table")
    files = [save(make_frame(4, first), folder / f"part-{n}.csv") for n, first in ((2, 0), (10, 4))]
    log = tables.preprocess(SCHEMA, tmp_path / "log", output=tmp_path / "out")
    assert log.manifest["tables"]["inputs"] == [["train", str(path)] for path in files]
    with pytest.raises(FileNotFoundError, match="is a folder that this package wrote"):
        tables.preprocess(SCHEMA, tmp_path / "out", output=tmp_path / "again")


def test_what_the_same_call_wrote_is_opened_where_that_is_asked_for(tmp_path):
    path, output = save(make_frame(20), tmp_path / "log.parquet"), tmp_path / "out"
    arguments = {"output": output, "split": {"train": 0.5, "test": 0.5}, "reuse": True}
    log = tables.preprocess(SCHEMA, path, **arguments)
    written = (output / "manifest.json").stat().st_mtime_ns
    again = tables.preprocess(SCHEMA, path, **arguments)
    assert again.manifest == log.manifest and (output / "manifest.json").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="made from other inputs or with other settings"):
        tables.preprocess(SCHEMA, path, **{**arguments, "split": {"train": 1.0}})
    save(make_frame(21), path)
    with pytest.raises(ValueError, match="made from other inputs or with other settings"):
        tables.preprocess(SCHEMA, path, **arguments)
    with pytest.raises(ValueError, match="mutually exclusive"):
        tables.preprocess(SCHEMA, path, **arguments, overwrite=True)


def test_files_of_a_pattern_are_read_in_the_order_of_their_numbers(tmp_path):
    for day in (10, 9, 1):
        save(make_frame(1, first=day), tmp_path / f"day_{day}.csv")
    log = tables.preprocess(SCHEMA, str(tmp_path / "day_*.csv"), output=tmp_path / "out")
    dense = log.split("train").arrays()[0]["dense"]
    np.testing.assert_allclose(np.expm1(dense[:, 0]), [1, 0, 10], rtol=1e-5)


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["0", "1", "2.5", "a", "a|b"])])
def test_texts_that_are_stored_as_categories_are_read_as_texts(tmp_path, kind):
    schema = Schema(
        dense=["x"], categorical=[Categorical("c"), Categorical("d", 3), Categorical("e", hotness=2)], label="y"
    )
    texts = {"y": ["1", "0"], "x": ["2.5", None], "c": ["a|b", "a"], "d": ["0", "1"], "e": ["a|b", "a"]}
    found = []
    for dtype in (pl.String, kind):
        path = tmp_path / f"{len(found)}.parquet"
        pl.DataFrame(texts).select(pl.all().cast(dtype)).write_parquet(path)
        found.append(tables.preprocess(schema, path, output=tmp_path / f"{len(found)}").split("train").arrays())
    np.testing.assert_equal(found[1], found[0])
    assert found[0][0]["sparse"].tolist() == [[1, 0, 1, 2], [2, 1, 1, -1]]


def test_a_file_or_folder_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    folder = tmp_path / "run[1]"
    folder.mkdir()
    save(make_frame(4), folder / "log1.parquet")
    path = save(make_frame(8), folder / "log[1].parquet")
    log = tables.preprocess(SCHEMA, path, output=folder / "out[1]")
    assert len(log.split("train")) == 8
    assert len(log.preprocessor.vocabularies["city"].values) == 2


def test_minus_one_is_a_missing_value_in_every_format(tmp_path):
    """The same holds in a packed batch, also where the vocabulary is fitted."""
    schema = Schema(categorical=[Categorical("city"), Categorical("tags", hotness=2)], label="click")
    frame = pl.DataFrame({"click": [0, 1, 0], "city": [7, -1, 9], "tags": [[5, -1], [-1, -1], [5, 6]]})
    frame.write_parquet(tmp_path / "a.parquet")
    frame.with_columns(pl.col("tags").cast(pl.List(pl.String)).list.join("|")).write_csv(tmp_path / "a.csv")
    for name in ("a.parquet", "a.csv"):
        log = tables.preprocess(schema, tmp_path / name, output=tmp_path / (name + ".out"))
        assert log.schema.table_sizes == {"city": 3, "tags": 3}
        assert log.split("train").arrays()[0]["sparse"].tolist() == [[1, 1, -1], [-1, -1, -1], [2, 1, 2]]


def test_real_table_of_criteo_rows(shared, tmp_path):
    schema = Schema(
        dense=[Dense(f"I{i}", "log1p") for i in range(1, 14)],
        categorical=[Categorical(f"C{i}", min_count=2) for i in range(1, 27)],
    )
    path = shared / "data" / "criteo" / "kaggle_rows90k-110k_idx.csv"
    log = tables.preprocess(schema, path, output=tmp_path / "out", split={"train": 0.7, "valid": 0.1, "test": 0.2})
    assert [len(log.split(s)) for s in log.splits] == [14_000, 2_000, 4_000]
    raw = pl.read_csv(path)
    counts = raw[:14_000]["C3"].value_counts().filter(pl.col("count") >= 2).drop_nulls()
    assert log.schema.table_sizes["C3"] == len(counts) + 1
