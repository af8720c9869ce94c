"""Row weights and labels between 0 and 1: from files, packed, in training and in scores."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import polars as pl
import pytest
from helpers.suite import suite_on
from helpers.table_logs import save
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data import tables
from keras_dlrm.metrics import reliability, scores
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run import train

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("c")], label="y", sample_weight="w", soft_labels=True)


def rows_of(number: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(number)
    return [
        {"y": float(y), "x": float(x), "c": f"v{i % 5}", "w": float(w), "tags": []}
        for i, (y, x, w) in enumerate(
            zip(draw.integers(0, 5, number) / 4, draw.normal(size=number), draw.integers(0, 4, number) / 2, strict=True)
        )
    ]


@pytest.mark.neutral
@pytest.mark.parametrize("ending", ["csv", "parquet", "tfrecord", "frame"])
def test_weights_and_labels_between_0_and_1_come_from_every_format(tmp_path: Path, ending: str) -> None:
    rows = rows_of(9)
    given = pl.DataFrame(rows) if ending == "frame" else save(rows, tmp_path / f"log.{ending}")
    log = tables.preprocess(SCHEMA, given, output=tmp_path / "out", split={"train": 0.7, "test": 0.3})
    assert kd.data.open(tmp_path / "out").schema.sample_weight == "w"
    found = [batch for name in log.splits for batch in log.split(name).batches(2)]
    assert [len(batch) for batch in found] == [3] * len(found)
    np.testing.assert_array_equal(np.concatenate([label for _, label, _ in found]), np.float32([r["y"] for r in rows]))
    np.testing.assert_array_equal(np.concatenate([weight for _, _, weight in found]), np.float32([r["w"] for r in rows]))
    log.split("train").to_tfrecord(tmp_path / "again.tfrecord")
    again = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 9)], label="y", sample_weight="w", soft_labels=True)
    back = tables.preprocess(again, tmp_path / "again.tfrecord", output=tmp_path / "again").split("train")
    np.testing.assert_array_equal(back.sample_weights(), log.split("train").sample_weights())
    bad = [{**rows[0], **change} for change in ({"w": -0.5}, {"w": float("inf")}, {"w": None}, {"y": 1.5}, {"y": -0.1})]
    given = pl.DataFrame(rows + bad) if ending == "frame" else save(rows + bad, tmp_path / f"bad.{ending}")
    skipping = tables.preprocess(SCHEMA, given, output=tmp_path / "skipping", on_error="skip")
    reasons = [(row["column"], row["reason"]) for row in skipping.manifest["bad_rows"]["examples"]]
    assert [column for column, _ in reasons] == ["w", "w", "w", "y", "y"] and len(skipping.split("train")) == 9
    assert "at least 0" in reasons[0][1] and "0 or 1, or a number between" in reasons[3][1]


@pytest.mark.neutral
@pytest.mark.parametrize("text, label", [("+1", 1), ("01", 1), ("1.0", 1), ("1e0", 1), ("true", 1), ("FALSE", 0), ("-0", 0)])
def test_labels_as_text_are_read_alike_in_every_format(tmp_path: Path, text: str, label: int) -> None:
    schema = kd.Schema(dense=["x"], label="y")
    rows = [{"y": text, "x": 1.0, "tags": []}]
    for ending in ("csv", "parquet", "tfrecord"):
        log = tables.preprocess(schema, save(rows, tmp_path / f"log.{ending}"), output=tmp_path / ending)
        assert log.split("train").labels.tolist() == [label]
    assert tables.preprocess(schema, pl.DataFrame(rows), output=tmp_path / "frame").split("train").labels.tolist() == [label]


def packed(folder: Path, number: int = 64) -> Any:
    log = tables.preprocess(SCHEMA, pl.DataFrame(rows_of(number)), output=folder, split={"train": 0.5, "valid": 0.25, "test": 0.25})
    return log


@pytest.mark.slow
def test_fit_counts_rows_by_their_weights(tmp_path: Path) -> None:
    part = packed(tmp_path / "log").split("train")
    batch, label = part.arrays()
    arrays = {"x": {key: np.array(v) for key, v in batch.items()}, "y": np.array(label)}
    ways: dict[str, dict[str, Any]] = {
        "arrays": {**arrays, "sample_weight": part.sample_weights(), "batch_size": 8},
        "dataset": {"x": part.dataset(8)},
        "padded": {"x": part.dataset(8, last="pad")},
        "tf.data": {"x": part.to_tf_dataset(8)},
    }
    found = {}
    for name, options in ways.items():
        model = kd.models.DLRM(part.schema, 4, [4], [4, 1], seed=0)
        model.compile(keras.optimizers.SGD(0.1), loss="binary_crossentropy")
        model.fit(**options, shuffle=False, verbose=0)
        found[name] = model.predict(part.dataset(8), verbose=0)
    for name, answers in found.items():
        np.testing.assert_allclose(answers, found["arrays"], rtol=1e-5, err_msg=name)


@pytest.mark.neutral
@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(0, 3)), min_size=2, max_size=12))
def test_a_weight_counts_as_so_many_rows_and_a_soft_label_as_parts_of_a_row(rows: list[tuple[int, int, int]]) -> None:
    soft, chances, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    soft, chances = soft / 4, chances / 10
    # Four rows in place of one, of which as many are clicks as the label says; as often as the weight.
    labels, values = [], []
    for y, p, w in zip(soft, chances, weights, strict=True):
        labels += [1.0] * int(4 * y * w) + [0.0] * int(4 * (1 - y) * w)
        values += [p] * int(4 * w)
    if len(set(labels)) < 2:
        with pytest.raises(ValueError, match="scores: all"):
            scores(soft, chances, weights)
        return
    expected, found = scores(labels, values), scores(soft, chances, weights)
    for name in ("auc", "logloss", "ne", "calibration"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, err_msg=name)
    assert reliability(soft, chances, 3, weights).rows.sum() == weights.sum()


@pytest.mark.neutral
def test_bad_weights_are_named(tmp_path: Path) -> None:
    for weights, words in (([1, -1], r"weights\[1\] is -1.0"), ([1], "2 labels but 1 weights"), ([0, 0], "all 2 weights are 0")):
        with pytest.raises(ValueError, match=words):
            scores([0, 1], [0.2, 0.7], weights)
    schema = kd.Schema(dense=["x"], label="y", sample_weight="w", soft_labels=True)
    batch = {"dense": np.zeros((2, 1), np.float32)}
    with kd.data.PackedWriter(tmp_path / "log", schema) as writer:
        writer.append("train", batch, [0, 0.5], [1, 2])
        with pytest.raises(ValueError, match="row weight 'w' is nan in row 3 of 'train'; it must be a finite"):
            writer.append("train", batch, [0, 1], [1, np.nan])
        with pytest.raises(ValueError, match="sample_weight='w', and none was given"):
            writer.append("train", batch, [0, 1])
    with pytest.raises(ValueError, match="'y' is given to 2 columns"):
        kd.Schema(dense=["x"], label="y", sample_weight="y")
    assert kd.Schema.from_json(schema.to_json()) == schema != kd.Schema(dense=["x"], label="y")


@suite_on("torch")
def test_a_run_scores_rows_by_their_weights(tmp_path: Path) -> None:
    log = packed(tmp_path / "log", 200)
    experiment = Experiment(model={"type": "DLRM", "embedding_dim": 4, "bottom_mlp": [4], "top_mlp": [1]}, epochs=1)
    result = train(experiment, log, tmp_path / "run")
    part = log.split("test")
    probabilities = np.load(tmp_path / "run" / "predictions.npy").astype(float)
    expected = scores(part.labels, probabilities, part.sample_weights())
    for name, value in expected.items():
        np.testing.assert_allclose(result["test"][name], value, rtol=1e-4)
    assert (tmp_path / "run" / "report.png").stat().st_size > 10_000
