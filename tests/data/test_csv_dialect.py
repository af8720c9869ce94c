"""Text files of other dialects: the same rows as in Parquet, whatever separates them, names them or stands for nothing."""

import contextlib
import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.cli import main
from keras_dlrm.data import tables
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.tables import text as table_text
from keras_dlrm.data.tables.files import open_table

pytestmark = pytest.mark.neutral

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("c")], label="y")
CELLS = st.text("ab\"'|NA\\ é-", max_size=4)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    cells=st.lists(CELLS, min_size=1, max_size=6),
    separator=st.sampled_from([None, ";", "\t", "^", ":", "\x01"]),
    header=st.booleans(),
    null=st.lists(st.sampled_from(["NA", "\\N", "-"]), max_size=2),
    quoting=st.booleans(),
    name=st.sampled_from(["log.csv", "log.tsv.gz", "part-00000", "log.txt"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_a_dialect_gives_the_cells_that_were_written(
    tmp_path: Path,
    cells: list[str],
    separator: str | None,
    header: bool,
    null: list[str],
    quoting: bool,
    name: str,
    end: str,
) -> None:
    dialect = CsvDialect(separator, None if header else ("c", "d"), tuple(null), quoting)
    between = separator or ("\t" if ".tsv" in name else ",")
    written = [f'"{cell.replace(chr(34), chr(34) * 2)}"' if quoting and '"' in cell else cell for cell in cells]
    lines = [*(["c" + between + "d"] if header else []), *(f"{cell}{between}{i}" for i, cell in enumerate(written))]
    content = "".join(line + end for line in lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_text, "BLOCK_BYTES", 7)
        file = open_table(tmp_path / name, dialect)
        assert file.columns() == ["c", "d"]
        blocks = list(file.blocks(["d", "c"]))
    assert not any(block.faults for block in blocks)
    found = [text for block in blocks for text in block.texts["c"].series().to_list()]  # type: ignore[attr-defined]
    assert found == ["" if cell in null else cell for cell in cells]


def test_the_preprocessor_keeps_the_dialect_for_new_days_and_predictions(tmp_path: Path) -> None:
    frame = pl.DataFrame({"y": [0, 1, 1, 0], "x": [1.0, None, 3.0, 4.0], "c": ["a", None, 'b"', "a"]})
    frame.write_parquet(tmp_path / "log.parquet")
    rows = ["0;1;a", "1;NA;NA", '1;3;b"', "0;4;a"]
    (tmp_path / "log.txt").write_text("\n".join(rows))
    expected = tables.preprocess(SCHEMA, tmp_path / "log.parquet", output=tmp_path / "expected").split("train").arrays()
    SCHEMA.save(tmp_path / "log.yaml")
    command = ["preprocess", "tables", "--schema", tmp_path / "log.yaml", "--train", tmp_path / "log.txt", "--output"]
    command += [tmp_path / "out", "--csv-separator", ";", "--csv-names", "y,x,c", "--csv-null", "NA", "--csv-no-quotes"]
    with contextlib.suppress(SystemExit):
        main([str(word) for word in command])
    log = kd.data.open(tmp_path / "out")
    np.testing.assert_equal(log.split("train").arrays(), expected)
    assert log.preprocessor.csv == CsvDialect(";", ("y", "x", "c"), ("NA",), False)
    for grown in ("frozen", "grown"):
        again = tables.preprocess(
            None, tmp_path / "log.txt", output=tmp_path / grown, preprocessor=tmp_path / "out", vocabulary=grown
        )
        np.testing.assert_equal(again.split("train").arrays(), expected)
        assert again.preprocessor.csv == log.preprocessor.csv
    model = kd.models.DLRM(log.schema, 4, [4], [1], seed=0)
    done = kd.scoring.predict_files(model, tmp_path / "log.txt", output=tmp_path / "p.csv", preprocessor=log.directory)
    assert done.rows == 4


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"separator": ";;"}, ValueError, "separator=';;' must be one ASCII"),
        ({"separator": "é"}, ValueError, "must be one ASCII"),
        ({"separator": "\n"}, ValueError, "already ends lines"),
        ({"separator": '"'}, ValueError, "already ends"),
        ({"names": "abc"}, TypeError, "names='abc' must be a list"),
        ({"names": []}, ValueError, "must name each field"),
        ({"null": "NA"}, TypeError, "null='NA' must be a list"),
        ({"quoting": 0}, TypeError, "quoting=0"),
    ],
)
def test_wrong_dialects_are_named(options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        CsvDialect(**options)


def test_lines_of_other_lengths_than_the_names_are_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("0,1,a\n1,2\n")
    with pytest.raises(ValueError, match="line 2: the row has 2 fields; the dialect names 3"):
        tables.preprocess(SCHEMA, tmp_path / "log.csv", output=tmp_path / "out", csv=CsvDialect(names=("y", "x", "c")))
