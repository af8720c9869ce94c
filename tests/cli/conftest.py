"""A planted log that commands train on."""

from pathlib import Path

import pytest

from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.schema.schema import Categorical, Schema


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "log"
    schema = Schema(dense=["x", "z"], categorical=[Categorical("a", 30), Categorical("b", 10, hotness=2)])
    PlantedClickLog(schema, seed=1).write(folder, rows={"train": 600, "valid": 200, "test": 300})
    return folder
