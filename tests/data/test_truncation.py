"""Lists that are longer than the hotness: the same values are kept in every way in, and their weights with them."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from helpers.table_logs import save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data import tables
from keras_dlrm.data.streaming.messages import Decoder
from keras_dlrm.data.streaming.stream import text_frame
from keras_dlrm.export.saved_model.columns import ModelColumns, RawColumns
from keras_dlrm.export.signatures import model_columns, raw_columns

pytestmark = pytest.mark.neutral

LISTS = st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=2, max_size=5).filter(any)


def schema_of(hotness: int, truncate: str | None, **given: Any) -> kd.Schema:
    sizes = {"ids": 9, "hashed": 9, "fitted": None}
    columns = [
        kd.Categorical(name, size, hotness=hotness, truncate=truncate, hashed=name == "hashed")
        for name, size in sizes.items()
    ]
    return kd.Schema(categorical=columns, label="y", **given)


def padded(rows: list[list[Any]], fill: Any) -> list[list[Any]]:
    longest = max(len(row) for row in rows) + 1
    return [row + [fill] * (longest - len(row)) for row in rows]


def example(names: list[str], row: list[int]) -> bytes:
    feature = tf.train.Feature(int64_list=tf.train.Int64List(value=row))
    return tf.train.Example(features=tf.train.Features(feature=dict.fromkeys(names, feature))).SerializeToString()


@pytest.mark.slow
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lists=LISTS, hotness=st.integers(1, 4), truncate=st.sampled_from(["first", "last"]))
def test_the_same_values_of_a_long_list_are_kept_in_every_way_in(
    tmp_path: Path, lists: list[list[int]], hotness: int, truncate: str
) -> None:
    schema = schema_of(hotness, truncate)
    cut = [row[:hotness] if truncate == "first" else row[-hotness:] for row in lists]
    names = schema.categorical_names
    fits = kd.data.Preprocessor.fit(schema, pl.DataFrame({name: lists for name in names}))
    expected = fits.transform({name: cut for name in names})["sparse"]
    rows = [{"y": i % 2, **{name: row for name in names}} for i, row in enumerate(lists)]
    found = {}
    for ending in ("parquet", "tfrecord"):
        found[ending] = save(rows, tmp_path / f"log.{ending}")
    flat = {name: ["|".join(map(str, row)) for row in lists] for name in names}
    pl.DataFrame({"y": [i % 2 for i in range(len(lists))], **flat}).write_csv(tmp_path / "log.csv")
    found["csv"] = tmp_path / "log.csv"
    for ending, path in found.items():
        log = tables.preprocess(schema, path, output=tmp_path / ending, overwrite=True)
        np.testing.assert_array_equal(log.split("train").arrays()[0]["sparse"], expected, ending)
        # A vocabulary that is fitted sees what is kept, and no more.
        assert log.schema.table_sizes["fitted"] == 1 + len({value for row in cut for value in row})
    # Requests and frames: lists, texts, and rectangles that are padded.
    for values in (lists, padded(lists, -1), ["|".join(map(str, row)) for row in lists], np.array(padded(lists, -1))):
        np.testing.assert_array_equal(fits.transform({name: values for name in names})["sparse"], expected)
    decode = Decoder(schema, "json")
    messages = [decode(str({"y": 0, **{name: row for name in names}}).replace("'", '"').encode()) for row in lists]
    np.testing.assert_array_equal(fits.transform(text_frame(fits, decode.names, messages))["sparse"], expected)
    # The serving graph.
    # TensorFlow shares lookup tables by the names of their files.
    raw = RawColumns(fits, raw_columns(fits), Path(tempfile.mkdtemp(dir=tmp_path)))
    texts = {name: tf.constant(padded([[str(v) for v in row] for row in lists], "")) for name in names}
    ids = {**texts, "ids": tf.constant(padded(lists, -1), tf.int64)}
    np.testing.assert_array_equal(raw.pack(ids)["sparse"], expected)
    schema = schema.replace_categorical(fitted={"vocabulary_size": 9})
    columns = ModelColumns(schema, model_columns(schema))
    assert [spec.shape[1] for spec in columns.specs().values()] == [None] * 3
    packed = columns.pack({name: tf.constant(padded(lists, -1), tf.int64) for name in names})["sparse"]
    np.testing.assert_array_equal(schema.pack({name: lists for name in names})["sparse"], packed)
    # Examples, also with missing values at the end, have lists of no more than the hotness before they get one length.
    for end in ([], [-1]):
        parsed = columns.parse([example(names, row + end) for row in lists])
        assert all(values.shape[1] <= hotness for values in parsed.values())
        asked = {name: tf.constant(padded([row + end for row in lists], -1), tf.int64) for name in names}
        np.testing.assert_array_equal(columns.pack(parsed)["sparse"], columns.pack(asked)["sparse"])
    np.testing.assert_array_equal(schema.pack({name: np.array(padded(lists, -1)) for name in names})["sparse"], packed)


@pytest.mark.parametrize("truncate", ["first", "last"])
def test_weights_are_cut_with_their_ids(truncate: str) -> None:
    schema = kd.Schema(categorical=[kd.Categorical("c", 9, hotness=2, truncate=truncate)], weighted=True)
    ids, weights = [[1, 2, 3], [4], []], {"c": [[0.1, 0.2, 0.3], [0.4], []]}
    kept = {"first": [[0.1, 0.2], [0.4, 0], [0, 0]], "last": [[0.2, 0.3], [0.4, 0], [0, 0]]}[truncate]
    for batch in (
        schema.pack({"c": ids}, weights),
        schema.pack({"c": np.array([[1, 2, 3], [4, -1, -1], [-1, -1, -1]])}, weights),
        kd.data.Preprocessor.identity(schema).transform({"c": ids}, weights),
    ):
        np.testing.assert_allclose(batch["weights"], kept, rtol=1e-6)
    with pytest.raises(ValueError, match="in row 0 weight 0.9 has no id"):
        schema.pack({"c": ids}, {"c": [[0.1, 0.2, 0.3, 0.9], [0.4], []]})
    with pytest.raises(ValueError, match="has no weight"):
        schema.pack({"c": ids}, {"c": [[0.1, 0.2, 0.3], [], []]})


@pytest.mark.parametrize("ending", ["csv", "parquet", "tfrecord"])
def test_the_error_says_what_to_do_with_long_lists(tmp_path: Path, ending: str) -> None:
    rows = [{"y": 0, "x": 0.0, "tags": ["a"] * n} for n in (1, 3, 2, 7)]
    schema = kd.Schema(categorical=[kd.Categorical("tags", hotness=2)], label="y")
    with pytest.raises(ValueError, match="has 3 values but hotness=2; raise hotness, .*truncate"):
        tables.preprocess(schema, save(rows, tmp_path / f"log.{ending}"), output=tmp_path / "out")
    fits = kd.data.Preprocessor.fit(kd.Schema(categorical=[kd.Categorical("tags", hotness=7)]), {"tags": [["a"]]})
    assert fits.schema.table_sizes == {"tags": 2}
    with pytest.raises(ValueError, match="hotness=2; raise hotness.*truncate.*4 rows has 7"):
        kd.data.Preprocessor.fit(schema, {"tags": [row["tags"] for row in rows]})
    with pytest.raises(ValueError, match="truncate='middle' is unknown"):
        kd.Categorical("tags", truncate="middle")
