"""Several labels of a log: from every format, packed, missing, and one of them by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers.table_logs import save

import keras_dlrm as kd
from keras_dlrm.data import PackedWriter, tables
from keras_dlrm.data.streaming.messages import Decoder
from keras_dlrm.schema.inference.sampling import sample

pytestmark = pytest.mark.neutral
SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("c")], label=["y", "z"])
LABELS = np.float32([[0, 1], [1, np.nan], [0, 0], [np.nan, np.nan], [1, 1], [np.nan, 0], [1, 0], [0, 1]])


def rows() -> list[dict[str, Any]]:
    return [
        {"y": None if y != y else float(y), "z": None if z != z else float(z), "x": float(i), "c": f"v{i % 3}", "tags": []}
        for i, (y, z) in enumerate(LABELS)
    ]


@pytest.mark.parametrize("ending", ["csv", "parquet", "tfrecord", "frame"])
def test_labels_come_from_every_format_and_may_be_missing(tmp_path: Path, ending: str) -> None:
    source = pl.DataFrame(rows()) if ending == "frame" else save(rows(), tmp_path / f"log.{ending}")
    tables.preprocess(SCHEMA, source, output=tmp_path / "out", split={"train": 0.5, "test": 0.5})
    log = kd.data.open(tmp_path / "out")
    assert log.schema.label == ("y", "z") and log.schema == log.preprocessor.schema
    np.testing.assert_array_equal(np.concatenate([log.split(name).labels for name in log.splits]), LABELS)
    batches = list(log.split("train").dataset(3, last="pad"))
    assert [label.shape for _, label, _ in batches] == [(3, 2)] * 2
    np.testing.assert_array_equal(batches[1][1][1:], 0)
    log.split("train").to_tfrecord(tmp_path / "again.tfrecord")
    known = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 9)], label=["y", "z"])
    back = tables.preprocess(known, tmp_path / "again.tfrecord", output=tmp_path / "again").split("train")
    np.testing.assert_array_equal(back.labels, LABELS[:4])
    bad = [*rows(), {**rows()[0], "z": 2.0}]
    source = pl.DataFrame(bad) if ending == "frame" else save(bad, tmp_path / f"bad.{ending}")
    with pytest.raises(ValueError, match="column z: value .* must be 0 or 1, or missing"):
        tables.preprocess(SCHEMA, source, output=tmp_path / "bad")


def test_one_label_of_a_log_has_the_rows_that_have_it(tmp_path: Path) -> None:
    log = tables.preprocess(SCHEMA, pl.DataFrame(rows()), output=tmp_path / "out")
    part = log.of_label("z").split("train")
    have = ~np.isnan(LABELS[:, 1])
    assert part.schema.label == "z" and len(part) == have.sum() and log.of_label("z").splits == log.splits
    np.testing.assert_array_equal(part.labels, LABELS[have, 1])
    whole, _ = log.split("train").arrays()
    for batch, label in part.batches(4):
        assert label.shape == (len(batch["sparse"]),)
    np.testing.assert_array_equal(np.concatenate([b["dense"] for b, _ in part.batches(4)]), whole["dense"][have])
    assert part.sample_weights() is None
    with pytest.raises(ValueError, match="of_label: 'w' is not a label of the log; it has"):
        log.of_label("w").split("train")


def test_a_schema_of_several_labels_goes_round_and_is_checked() -> None:
    assert SCHEMA.labels == ("y", "z") and SCHEMA.row_names == ("y", "z")
    for again in (kd.Schema.from_yaml(SCHEMA.to_yaml()), kd.Schema.from_json(SCHEMA.to_json()), SCHEMA.with_columns(["x"], [])):
        assert again.label == ("y", "z")
    assert kd.Schema(["x"], label="y").to_dict()["label"] == "y" and SCHEMA.with_label("y").label == "y"
    assert SCHEMA != SCHEMA.with_label("y") and hash(SCHEMA) == hash(kd.Schema.from_dict(SCHEMA.to_dict()))
    known = kd.Schema(["x"], label=["y", "z"])
    np.testing.assert_array_equal(known.pack({"x": [1.0], "y": [1], "z": [0]})["dense"], [[1.0]])
    for label, words in (([], "a list of two and more"), (["y"], "a list of two"), (["y", "y"], "the name 'y' is given to 2")):
        with pytest.raises(ValueError, match=words):
            kd.Schema(["x"], label=label)
    with pytest.raises(TypeError, match="Schema: label: name=3 must be a string"):
        kd.Schema(["x"], label=["y", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"PlantedClickLog: the schema has the labels \['y', 'z'\]; one is allowed here"):
        kd.data.synthetic.PlantedClickLog(known)


def test_a_writer_checks_the_shape_and_each_label(tmp_path: Path) -> None:
    schema, batch = kd.Schema(["x"], label=["y", "z"]), {"dense": np.zeros((2, 1), "float32")}
    with PackedWriter(tmp_path / "log", schema) as writer:
        with pytest.raises(ValueError, match=r"label has shape \(2,\); it must be \(B, 2\), for \['y', 'z'\]"):
            writer.append("train", batch, np.zeros(2))
        with pytest.raises(ValueError, match="label 'z' is 0.5 in row 1 of 'train'; it must be 0 or 1, or missing"):
            writer.append("train", batch, np.array([[0, 1], [np.nan, 0.5]]))
        writer.append("train", batch, np.array([[0, 1], [np.nan, 1]]))
    assert kd.data.open(tmp_path / "log").split("train").labels.shape == (2, 2)


def test_inference_leaves_out_what_gives_any_label_away() -> None:
    r = np.random.default_rng(0)
    y, z = r.integers(0, 2, (2, 400)).astype(float)
    frame = {"y": y, "z": np.where(np.arange(400) % 4 == 0, np.nan, z), "told": z * 5 + r.random(400), "x": r.normal(size=400)}
    schema = kd.Schema.infer(frame, label=["y", "z"])
    assert schema.label == ("y", "z") and schema.dense_names == ("x",) and "told" in schema.inferred.left_out
    assert kd.Schema.from_yaml(schema.to_yaml()) == schema
    assert kd.Schema.infer({**frame, "told": r.normal(size=400)}, label=["y", "z"]).dense_names == ("told", "x")
    with pytest.raises(ValueError, match="label 'z' of .* no label"):
        kd.Schema.infer({**frame, "z": np.full(400, np.nan)}, label=["y", "z"])
    assert sample(frame).frame.shape == (400, 4)


def test_messages_of_a_stream_have_all_labels() -> None:
    decoder = Decoder(SCHEMA, "json")
    assert decoder.names == ["x", "c", "y", "z"]
    assert decoder(b'{"x": 1.5, "c": "a", "y": 1, "z": null}') == ["1.5", "a", "1", None]
