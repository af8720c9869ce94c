"""Tables that are no plain files: frames in memory, and columns that folders name."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import pytest
from helpers.table_logs import save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data import tables

pytestmark = pytest.mark.neutral

SCHEMA = kd.Schema(
    dense=["x"], categorical=[kd.Categorical("c"), kd.Categorical("tags", hotness=2), kd.Categorical("b")], label="y"
)
COLUMNS: dict[str, Any] = {
    "y": [0, 1, 1, 0, 1],
    "x": [0.5, None, 2.0, 3.0, 4.0],
    "c": ["u", "v", None, "u", "w"],
    "tags": [["a"], ["a", "b"], [], ["b"], ["c"]],
    "b": [True, False, None, True, True],
    "unused": [object()] * 5,
}


def forms() -> dict[str, Any]:
    import pandas as pd

    plain = {name: values for name, values in COLUMNS.items() if name != "unused"}
    found = {
        "mapping": COLUMNS,
        "polars": pl.DataFrame(plain),
        "lazy": pl.LazyFrame(plain),
        "pandas": pd.DataFrame(COLUMNS),
    }
    try:
        import pyarrow as pa

        found["arrow"] = pa.table(plain)
    except ImportError:
        pass
    return found


@pytest.mark.slow
def test_frames_of_every_kind_are_taken_where_a_file_is(tmp_path: Path) -> None:
    plain = pl.DataFrame({name: values for name, values in COLUMNS.items() if name != "unused"})
    plain.write_parquet(tmp_path / "log.parquet")
    expected = tables.preprocess(SCHEMA, tmp_path / "log.parquet", output=tmp_path / "expected").split("train").arrays()
    model = kd.models.DLRM(kd.data.open(tmp_path / "expected").schema, 4, [4], [1], seed=0)
    for name, frame in forms().items():
        log = tables.preprocess(SCHEMA, frame, output=tmp_path / name)
        np.testing.assert_equal(log.split("train").arrays(), expected, name)
        done = kd.scoring.predict_files(
            model, frame, output=tmp_path / f"{name}.csv", preprocessor=tmp_path / name, id_columns=["c"]
        )
        assert done.rows == 5
        parts = tables.preprocess(SCHEMA, {"train": frame, "test": frame}, output=tmp_path / f"{name} parts")
        assert {part: len(parts.split(part)) for part in parts.splits} == {"train": 5, "test": 5}
    both = tables.preprocess(SCHEMA, [plain[:2], tmp_path / "log.parquet", plain[:0]], output=tmp_path / "both")
    assert len(both.split("train")) == 7


def test_bad_frames_are_named(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(KeyError, match="the frame: column 'b' is missing"):
        tables.preprocess(SCHEMA, pl.DataFrame({"y": [1], "x": [1], "c": ["a"], "tags": ["a"]}), output=output)
    with pytest.raises(ValueError, match="the frame, row 1, column y: value '7' must be 0 or 1"):
        tables.preprocess(SCHEMA, {**COLUMNS, "y": [1, 7, 0, 0, 0]}, output=output)
    with pytest.raises(TypeError, match="an input is of the type int; give a path, a pattern, a frame, or a mapping of columns"):
        tables.preprocess(SCHEMA, [7], output=output)
    with pytest.raises(ValueError, match="no rows"):
        tables.preprocess(SCHEMA, {name: [] for name in COLUMNS}, output=output)


VALUES = st.text(min_size=1, max_size=6).filter(lambda text: "\0" not in text and text.isprintable())


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "tfrecord"])
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values=st.lists(VALUES, min_size=2, max_size=2, unique=True))
def test_columns_that_folders_name_are_read_as_if_the_files_had_them(
    tmp_path: Path, ending: str, values: list[str]
) -> None:
    root = Path(tmp_path / str(len(list(tmp_path.iterdir()))))
    schema = kd.Schema(dense=["n"], categorical=[kd.Categorical("c"), kd.Categorical("day d")], label="y")
    days = [quote(values[0], safe=""), quote(values[1], safe=" "), "__HIVE_DEFAULT_PARTITION__"]
    for number, day in enumerate(days):
        (folder := root / f"n={number}" / f"day d={day}").mkdir(parents=True)
        rows = [{"y": i, "c": f"v{i}", "tags": [], "n.": 0} for i in range(2)]
        save(rows, folder / f"part-0.{ending}")
    log = tables.preprocess(schema, f"{root}/**/*.{ending}", output=root / "out")
    batch, _ = log.split("train").arrays()
    assert batch["dense"].ravel().tolist() == [0, 0, 1, 1, 2, 2]
    seen = log.preprocessor.transform({"n": [0] * 2, "c": ["v0"] * 2, "day d": values})["sparse"][:, 1]
    assert batch["sparse"][:, 1].tolist() == [*np.repeat(seen, 2), -1, -1]


def test_a_column_of_the_file_comes_before_its_folders_name_and_ids_may_come_from_it(tmp_path: Path) -> None:
    (folder := tmp_path / "c=other" / "day=3").mkdir(parents=True)
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("c")], label="y")
    for ending in ("csv", "parquet", "tfrecord"):
        path = save([{"y": i % 2, "x": 1.0, "c": f"v{i}", "tags": []} for i in range(3)], folder / f"log.{ending}")
        log = tables.preprocess(schema, path, output=tmp_path / ending)
        assert log.schema.table_sizes == {"c": 4}
        model = kd.models.DLRM(log.schema, 4, [4], [1], seed=0)
        options: dict[str, Any] = {"preprocessor": log.directory, "id_columns": ["day"], "overwrite": True}
        kd.scoring.predict_files(model, path, output=tmp_path / "p.parquet", **options)
        assert pl.read_parquet(tmp_path / "p.parquet")["day"].to_list() == ["3"] * 3
