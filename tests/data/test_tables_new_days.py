"""New days of a log through a fitted preprocessor, and splits as TFRecord."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from helpers.table_logs import FORMATS, SCHEMA, make_rows, save

from keras_dlrm.data import criteo, tables
from keras_dlrm.data.packed.packed import ClickLog
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.vocabulary import Vocabulary
from keras_dlrm.schema.criteo import CATEGORICAL, DENSE
from keras_dlrm.schema.schema import Schema

pytestmark = pytest.mark.neutral


def frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, infer_schema_length=None)


@pytest.fixture(scope="module")
def monday(tmp_path_factory: pytest.TempPathFactory) -> ClickLog:
    folder = tmp_path_factory.mktemp("monday")
    return tables.preprocess(SCHEMA, save(make_rows(400), folder / "log.parquet"), output=folder / "out")


@pytest.mark.parametrize("ending", FORMATS)
def test_frozen_vocabularies_map_a_new_day_as_the_preprocessor_maps_a_request(
    tmp_path: Path, monday: ClickLog, ending: str
) -> None:
    rows = make_rows(300, seed=1)
    log = tables.preprocess(
        None, save(rows, tmp_path / f"log.{ending}"), output=tmp_path / "out", preprocessor=monday.directory
    )
    batch, label = log.split("train").arrays()
    for name, expected in monday.preprocessor.transform(frame(rows)).items():
        np.testing.assert_array_equal(batch[name], expected)
    assert label.tolist() == [row["click"] for row in rows]
    assert log.schema == monday.schema


@pytest.mark.parametrize("ending", FORMATS)
def test_grown_vocabularies_keep_known_ids_and_add_those_of_the_training_part(
    tmp_path: Path, monday: ClickLog, ending: str
) -> None:
    rows = make_rows(500, seed=2)
    path, split = save(rows, tmp_path / f"log.{ending}"), {"train": 0.6, "test": 0.4}
    known = monday.preprocessor
    log = tables.preprocess(SCHEMA, path, output=tmp_path / "out", split=split, preprocessor=known, vocabulary="grown")
    grown = known.grow(frame(rows[:300]))
    assert log.schema == grown.schema and log.schema.table_sizes["city"] > known.schema.table_sizes["city"]
    for name, part in (("train", rows[:300]), ("test", rows[300:])):
        batch, _ = log.split(name).arrays()
        for key, expected in grown.transform(frame(part)).items():
            np.testing.assert_array_equal(batch[key], expected)
    for table, vocabulary in known.vocabularies.items():
        found = log.preprocessor.vocabularies[table].encode(vocabulary.values, table)
        np.testing.assert_array_equal(found, vocabulary.ids)
    assert log.preprocessor.dense_state == known.dense_state


def test_fitted_tables_equal_a_preprocessor_that_is_fitted_in_memory(tmp_path: Path) -> None:
    rows = make_rows(600)
    log = tables.preprocess(
        SCHEMA, save(rows, tmp_path / "log.csv"), output=tmp_path / "out", split={"train": 0.5, "valid": 0.5}
    )
    fitted = Preprocessor.fit(SCHEMA, frame(rows[:300]))
    assert log.schema == fitted.schema and log.preprocessor.dense_state == fitted.dense_state
    for name, part in (("train", rows[:300]), ("valid", rows[300:])):
        batch, _ = log.split(name).arrays()
        for key, expected in fitted.transform(frame(part)).items():
            np.testing.assert_array_equal(batch[key], expected)


def test_wrong_preprocessors_are_named(tmp_path: Path, monday: ClickLog) -> None:
    path = save(make_rows(20), tmp_path / "log.csv")
    with pytest.raises(ValueError, match="vocabulary='new' is unknown"):
        tables.preprocess(None, path, output=tmp_path / "out", preprocessor=monday.directory, vocabulary="new")
    with pytest.raises(ValueError, match="the schema's dense_names are"):
        tables.preprocess(
            Schema(dense=["x"], label="click"), path, output=tmp_path / "out", preprocessor=monday.preprocessor
        )
    with pytest.raises(FileNotFoundError, match="preprocessor.json"):
        tables.preprocess(None, path, output=tmp_path / "out", preprocessor=tmp_path)


def test_many_different_values_that_are_no_keys_are_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "day.txt").write_text("".join("\t".join([str(i % 2), *"1" * 13, *"ab" * 13]) + "\n" for i in range(9)))
    known = criteo.preprocess(tmp_path / "day.txt", tmp_path / "known").preprocessor
    columns: dict[str, object] = {"label": [0] * 500, **dict.fromkeys(DENSE, 1), **dict.fromkeys(CATEGORICAL, "a")}
    day = pl.DataFrame({**columns, "C7": [f"no key {i}" if i else "b" for i in range(500)]})
    day.write_csv(tmp_path / "day.csv")
    calls = []
    look_up = Vocabulary.looked_up
    monkeypatch.setattr(Vocabulary, "looked_up", lambda *arguments: [calls.append(1), look_up(*arguments)][1])
    log = tables.preprocess(None, tmp_path / "day.csv", output=tmp_path / "out", preprocessor=known, on_error="skip")
    assert len(log.split("train")) == 1 and log.manifest["bad_rows"]["skipped"] == 499
    assert log.manifest["bad_rows"]["examples"][0]["value"] == "no key 1"
    assert len(calls) == 26


@pytest.mark.parametrize("name", ["part.tfrecord", "part.tfrecord.gz"])
def test_a_split_as_tfrecord_is_read_by_stock_tensorflow_and_read_back(
    tmp_path: Path, monday: ClickLog, name: str
) -> None:
    part, path = monday.split("train"), tmp_path / name
    part.to_tfrecord(path)
    batch, label = part.arrays()
    features = {
        "click": tf.io.FixedLenFeature([], tf.float32),
        "price": tf.io.FixedLenFeature([], tf.float32),
        "tags": tf.io.RaggedFeature(tf.int64),
    }
    records = tf.data.TFRecordDataset(str(path), "GZIP" if name.endswith("gz") else "")
    parsed = next(iter(records.batch(1000).map(lambda r: tf.io.parse_example(r, features))))
    np.testing.assert_array_equal(parsed["click"], label)
    np.testing.assert_array_equal(parsed["price"], batch["dense"][:, 0])
    tags = batch["sparse"][:, 2:5]
    assert parsed["tags"].to_list() == [[i for i in row if i != -1] for row in tags.tolist()]
    again = tables.preprocess(Preprocessor.identity(monday.schema).schema, path, output=tmp_path / "again")
    for key, expected in batch.items():
        np.testing.assert_array_equal(again.split("train").arrays()[0][key], expected)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        part.to_tfrecord(path)
    part.to_tfrecord(path, overwrite=True)
    part.to_tfrecord(tmp_path / "new" / name)
    with pytest.raises(FileExistsError, match="is a folder"):
        part.to_tfrecord(tmp_path / "new", overwrite=True)
    shutil.rmtree(tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", name]
