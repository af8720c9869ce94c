"""Whole files scored: the same numbers as `predict`, in the order of the rows, with their ids alongside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from helpers.scored import NEW, ROWS, expected
from helpers.table_logs import FORMATS, example, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data.tables import frames as table_frames
from keras_dlrm.data.tables import records as table_records
from keras_dlrm.data.tables import text as table_text
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.scoring import predict_files


@pytest.mark.slow
@pytest.mark.parametrize("ending", FORMATS)
def test_predictions_are_those_of_predict_in_the_order_of_the_rows(
    tmp_path: Path, log: Any, model: Any, ending: str
) -> None:
    parts = [save(NEW[:200], tmp_path / f"day-1.{ending}"), save(NEW[200:], tmp_path / f"day-2.{ending}")]
    done = predict_files(
        model, tmp_path / f"day-*.{ending}", output=tmp_path / "p.parquet", preprocessor=log.preprocessor,
        id_columns=["unused", "city", "click"], batch_size=64,
    )  # fmt: skip
    table = pl.read_parquet(tmp_path / "p.parquet")
    assert (done.rows, done.skipped, len(table)) == (ROWS, 0, ROWS) and len(parts) == 2
    number = pl.String if "sv" in ending else pl.Int64
    assert table.schema == {"unused": number, "city": pl.String, "click": number, "probability": pl.Float32}
    assert table["unused"].cast(pl.Int64).to_list() == [row["unused"] for row in NEW]
    # A CSV file has no difference between an empty text and none.
    empty = "" if "sv" in ending else None
    assert table["city"].to_list() == [empty if row["city"] is None else row["city"] for row in NEW]
    answers = expected(log, model, NEW)
    assert np.ptp(answers) > 0.05
    np.testing.assert_allclose(table["probability"], answers, rtol=1e-5, atol=1e-7)


@pytest.mark.neutral
def test_names_of_files_may_look_like_patterns(tmp_path: Path, log: Any, model: Any) -> None:
    path = save(NEW, tmp_path / "day[1].parquet")
    save(NEW[:5], tmp_path / "day1.parquet")
    done = predict_files(
        model, path, output=tmp_path / "p[1]?.parquet", preprocessor=log.preprocessor, id_columns=["unused"]
    )
    assert done.rows == ROWS == len(pl.read_parquet(tmp_path / "p[1]?.parquet", glob=False))


@pytest.mark.slow
@pytest.mark.neutral
@pytest.mark.parametrize("ending", ["csv", "parquet", "tfrecord"])
@given(batch=st.integers(1, 400), block=st.integers(1, 150))
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_neither_the_batch_nor_the_blocks_of_the_file_change_the_result(
    tmp_path: Path, log: Any, model: Any, ending: str, batch: int, block: int
) -> None:
    path = save(NEW, tmp_path / f"rows.{ending}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_frames, "BLOCK_ROWS", block)
        patch.setattr(table_frames, "SLICE_ROWS", 3 * block)
        patch.setattr(table_text, "BLOCK_ROWS", block)
        patch.setattr(table_records, "BLOCK_RECORDS", block)
        done = predict_files(model, path, output=tmp_path / "p.csv", preprocessor=log.directory, batch_size=batch,
                             id_columns=["unused"], overwrite=True, workers=2)  # fmt: skip
    table = pl.read_csv(tmp_path / "p.csv")
    assert done.rows == ROWS and table["unused"].to_list() == [row["unused"] for row in NEW]
    np.testing.assert_allclose(table["probability"], expected(log, model, NEW), rtol=1e-5, atol=1e-6)


@pytest.mark.neutral
@pytest.mark.parametrize("output", ["p.parquet", "p.csv"])
@pytest.mark.parametrize("ending", FORMATS)
def test_files_without_rows_give_the_columns_without_rows(
    tmp_path: Path, log: Any, model: Any, ending: str, output: str
) -> None:
    path = tmp_path / f"empty.{ending}"
    if ending == "parquet":
        pl.DataFrame([NEW[0]])[:0].write_parquet(path)
    elif "tfrecord" in ending:
        with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP") if ending.endswith("gz") else None):
            pass
    else:
        save(NEW[:1], path)
        import gzip

        whole = gzip.decompress(path.read_bytes()) if ending.endswith("gz") else path.read_bytes()
        header = whole.splitlines(keepends=True)[0]
        path.write_bytes(gzip.compress(header) if ending.endswith("gz") else header)
    done = predict_files(model, path, output=tmp_path / output, preprocessor=log.directory, id_columns=["unused"])
    assert done.rows == 0
    if output == "p.csv":
        assert (tmp_path / output).read_text() == "unused,probability\n"
    else:
        table = pl.read_parquet(tmp_path / output)
        assert table.schema == {"unused": pl.Int64 if ending == "parquet" else pl.String, "probability": pl.Float32}
    both = [path, save(NEW[:5], tmp_path / f"some.{ending}")]
    if "tfrecord" not in ending:
        done = predict_files(model, both, output=tmp_path / output, preprocessor=log.directory, overwrite=True)
        assert done.rows == 5


def test_columns_that_hold_ids_already_need_no_preprocessor(tmp_path: Path) -> None:
    schema = Schema(dense=["x"], categorical=[Categorical("a", 10), Categorical("tags", 6, hotness=2)])
    model = kd.models.DLRM(schema, 4, [4], [4, 1])
    frame = pl.DataFrame({"x": [0.5, -1.0], "a": [9, -1], "tags": [[5, 0], []]})
    frame.write_parquet(tmp_path / "ids.parquet")
    predict_files(model, tmp_path / "ids.parquet", output=tmp_path / "p.tsv.gz", preprocessor=None, column="p(click)")
    table = pl.read_csv(tmp_path / "p.tsv.gz", separator="\t")
    assert table.columns == ["p(click)"]
    answers = model.predict({"dense": np.array([[0.5], [-1]], "f"), "sparse": np.array([[9, 5, 0], [-1, -1, -1]])}, verbose=0)
    np.testing.assert_allclose(table["p(click)"], answers.ravel(), rtol=1e-5)
    pl.DataFrame({"x": [0.5], "a": [10], "tags": [[1]]}).write_parquet(tmp_path / "beyond.parquet")
    with pytest.raises(ValueError, match="row 0, column a: value '10' must be an integer id: 0 … 9"):
        predict_files(model, tmp_path / "beyond.parquet", output=tmp_path / "q.csv", preprocessor=None)


@pytest.mark.neutral
def test_id_columns_keep_their_types_and_parquet_holds_lists(tmp_path: Path, log: Any, model: Any) -> None:
    wide = pl.DataFrame(NEW[:4]).with_columns(
        big=pl.Series([2**63 - 1, None, 0, -1]), kind=pl.Series(["a", None, "b", "a"], dtype=pl.Categorical),
        when=pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 4), "1d"),
    )  # fmt: skip
    wide.write_parquet(tmp_path / "rows.parquet")
    names = ["big", "kind", "when", "tags", "price"]
    options: dict[str, Any] = {"preprocessor": log.directory, "id_columns": names}
    predict_files(model, tmp_path / "rows.parquet", output=tmp_path / "p.parquet", **options)
    table = pl.read_parquet(tmp_path / "p.parquet")
    assert table.drop("probability").equals(wide.select(names).with_columns(pl.col("kind").cast(pl.String)))
    assert table["tags"].dtype == pl.List(pl.String) and table["big"].dtype == pl.Int64
    with pytest.raises(ValueError, match="column 'tags' is List.*which a text file cannot hold"):
        predict_files(model, tmp_path / "rows.parquet", output=tmp_path / "p.csv", **options)


@pytest.mark.neutral
def test_records_without_an_id_have_none_and_several_are_a_bad_row(tmp_path: Path, log: Any, model: Any) -> None:
    rows = [dict(row) for row in NEW[:6]]
    del rows[1]["unused"]
    rows[4]["unused"] = [7, 8]
    with tf.io.TFRecordWriter(str(tmp_path / "rows.tfrecord")) as writer:
        for row in rows:
            writer.write(example(row))
    options: dict[str, Any] = {"preprocessor": log.directory, "id_columns": ["unused"]}
    done = predict_files(model, tmp_path / "rows.tfrecord", output=tmp_path / "p.parquet", on_error="skip", **options)
    assert str(done.examples[0]).endswith("row 4, column unused: value '[7, 8]' must be a single value.")
    assert pl.read_parquet(tmp_path / "p.parquet")["unused"].to_list() == [1000, None, 1002, 1003, 1005]


@pytest.mark.neutral
def test_progress_counts_up_to_the_rows(tmp_path: Path, log: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_frames, "BLOCK_ROWS", 70)
    seen: list[tuple[int, int | None, str]] = []
    options: dict[str, Any] = {"output": tmp_path / "p.csv", "progress": lambda *state: seen.append(state)}
    predict_files(model, save(NEW, tmp_path / "rows.parquet"), preprocessor=log.preprocessor, **options)
    assert seen == [(n, ROWS, "score") for n in (70, 140, 210, 280, ROWS)]
