"""The file that predictions go to: complete or absent, in every format."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm.scoring.output import TableOutput

pytestmark = pytest.mark.neutral

COLUMNS = {"id": pl.String, "n": pl.Int64, "probability": pl.Float32}


def frame(rows: int, first: int = 0) -> pl.DataFrame:
    ids = [f'"{i}", Köln\n' if i % 3 else None for i in range(first, first + rows)]
    return pl.DataFrame({"id": ids, "n": range(first, first + rows), "probability": [i / 7 for i in range(rows)]}, COLUMNS)


def read(path: Path) -> pl.DataFrame:
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    return pl.read_csv(path, schema=COLUMNS, separator="\t" if ".tsv" in path.name else ",")


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "csv.gz", "tsv.gz"])
@given(sizes=st.lists(st.integers(0, 40), max_size=5))
def test_frames_come_back_one_after_the_other(tmp_path_factory: pytest.TempPathFactory, ending: str, sizes: list[int]) -> None:
    path = tmp_path_factory.mktemp("out") / f"scores.{ending}"
    parts = [frame(rows, sum(sizes[:k])) for k, rows in enumerate(sizes)]
    with TableOutput(path, COLUMNS) as output:
        for part in parts:
            output.write(part)
            assert not path.exists()
    assert output.rows == sum(sizes)
    assert read(path).equals(pl.concat([frame(0), *parts]))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_an_error_leaves_nothing_behind_and_an_earlier_file_as_it_was(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scores.{ending}"
    path.write_text("earlier")
    with pytest.raises(ZeroDivisionError), TableOutput(path, COLUMNS, overwrite=True) as output:
        output.write(frame(10))
        raise ZeroDivisionError
    assert path.read_text() == "earlier" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "columns", "error", "words"),
    [
        ("scores.xlsx", COLUMNS, ValueError, "scores.xlsx: the ending says no format"),
        ("scores", COLUMNS, ValueError, "use .parquet, .csv, .tsv"),
        ("scores.parquet.gz", COLUMNS, ValueError, "the ending says no format"),
        ("scores.csv", {"tags": pl.List(pl.Int64)}, ValueError, r"column 'tags' is List\(Int64\), which a text file cannot"),
        ("there.csv", COLUMNS, FileExistsError, "there.csv exists.*overwrite"),
        ("folder.csv", COLUMNS, FileExistsError, "folder.csv is a folder"),
        ("none/scores.csv", COLUMNS, FileNotFoundError, "none does not exist"),
        ("there.csv/scores.csv", COLUMNS, NotADirectoryError, "there.csv is a file, so that there is no place for scores.csv"),
    ],
)
def test_a_place_where_no_file_can_be_is_named(tmp_path: Path, name: str, columns: dict, error: type, words: str) -> None:
    (tmp_path / "there.csv").write_text("x")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(error, match=words):
        TableOutput(tmp_path / name, columns)


def test_a_file_that_comes_up_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), TableOutput(tmp_path / "scores.csv", COLUMNS) as output:
        output.write(frame(1))
        (tmp_path / "scores.csv").write_text("another's")
    assert (tmp_path / "scores.csv").read_text() == "another's" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, ending: str) -> None:
    draw = np.random.default_rng(0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses to let a file grow beyond 64 kB, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with (
            pytest.raises(OSError, match=f"scores.{ending}: not written.*has room"),
            TableOutput(tmp_path / f"scores.{ending}", {"x": pl.Float64}) as output,
        ):
            for _ in range(60):
                output.write(pl.DataFrame({"x": draw.normal(size=10_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
