"""A processed log and a model of it, for the tests of scoring."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.table_logs import SCHEMA, make_rows, save

import keras_dlrm as kd
from keras_dlrm.data import tables


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("log")
    return tables.preprocess(SCHEMA, save(make_rows(500), folder / "train.parquet"), output=folder / "log")


@pytest.fixture(scope="module")
def model(log: Any) -> Any:
    return kd.models.DLRM(log.schema, embedding_dim=4, bottom_mlp=[8, 4], top_mlp=[8, 1], init_scale=1.0, seed=0)
