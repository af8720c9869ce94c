"""Paths that are not UTF-8, which Polars does not take, wherever a path is taken."""

import os

import numpy as np
import polars as pl
import pytest

import keras_dlrm as kd

NAME = os.fsdecode(b"caf\xe9 \xff")


@pytest.mark.neutral
def test_log_is_inferred_preprocessed_and_opened_under_names_that_are_not_utf8(tmp_path):
    folder = tmp_path / NAME
    folder.mkdir()
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user": rng.integers(0, 9, 400), "price": rng.normal(size=400), "click": rng.integers(0, 2, 400)})
    with open(folder / f"{NAME}.parquet", "wb") as file:
        frame.write_parquet(file)
    schema = kd.Schema.infer(folder / f"{NAME}.parquet", "click")
    split = {"train": 0.5, "valid": 0.25, "test": 0.25}
    for source, output in ((folder / f"{NAME}.parquet", folder / f"of a file {NAME}"), (frame, folder / f"of a frame {NAME}")):
        log = kd.data.tables.preprocess(schema, source, output=output, split=split)
        opened = kd.data.open(output)
        assert len(opened.split("train")) == len(log.split("train")) == 200
        assert opened.preprocessor.transform(frame)["sparse"].shape[0] == 400
    assert {path.name for path in folder.iterdir()} == {f"{NAME}.parquet", f"of a file {NAME}", f"of a frame {NAME}"}


def test_index_is_saved_and_answers_are_written_under_names_that_are_not_utf8(tmp_path):
    folder = tmp_path / NAME
    folder.mkdir()
    schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
    tower = kd.models.TwoTower(schema, ["user"], ["item"], seed=0)
    index = kd.retrieval.Index.build(tower, {"item": [3, 5, 7]})
    index.save(folder / NAME)
    loaded = kd.retrieval.Index.load(folder / NAME, tower)
    output = folder / f"{NAME}.parquet"
    users = pl.DataFrame({"user": [1, 2]})
    done = kd.scoring.recommend_files(loaded, users, output=output, preprocessor=None, k=2, id_columns=["user"])
    assert done.rows == 4 and output.is_file()
