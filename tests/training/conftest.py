"""A planted log, for the tests of runs."""

from __future__ import annotations

import pytest

from keras_dlrm import data
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.schema.schema import Categorical, Schema


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> data.ClickLog:
    schema = Schema(dense=["x", "z"], categorical=[Categorical("a", 30), Categorical("b", 10, hotness=2)])
    folder = tmp_path_factory.mktemp("planted") / "log"
    return PlantedClickLog(schema, seed=1).write(folder, rows={"train": 600, "valid": 300, "test": 300})
