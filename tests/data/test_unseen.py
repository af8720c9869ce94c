"""Unseen values are counted alike in every kind of file, and shown where they point to another vocabulary."""

from concurrent.futures import ThreadPoolExecutor

import click
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from keras_dlrm.cli.options import print_unseen
from keras_dlrm.data.preprocessor.columns import Columns
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.unseen import Tally, Unseen, warning, worst
from keras_dlrm.data.preprocessor.vocabulary import Keys
from keras_dlrm.data.tables.files import open_table
from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.schema import Schema

pytestmark = pytest.mark.neutral
SCHEMA = Schema(
    categorical=[
        Categorical("user"),
        Categorical("flag", oov=None),
        Categorical("tags", hotness=3, oov_rows=4),
        Categorical("hex"),
    ]
)
SEEN = pl.DataFrame({"user": ["1", "2"], "flag": ["true", None], "tags": [["a"], ["b"]], "hex": ["1f", "2f"]})
ROWS = pl.DataFrame(
    {
        "user": [1, 2, 3, None, 3, 1],
        "flag": [True, False, None, False, True, True],
        "tags": [["a", "x"], [], None, ["y", "y", "b"], ["a"], ["z"]],
        "hex": ["1f", "", None, "3f", "001F", "2F"],
    }
)
COUNTS = {"user": (5, 2), "flag": (5, 2), "tags": (7, 4), "hex": (4, 1)}


def write(rows, path):
    if path.suffix == ".parquet":
        rows.write_parquet(path)
        return
    rows.with_columns(pl.col("tags").list.join("|")).write_csv(path)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_unseen_values_are_counted_and_missing_ones_are_not(tmp_path, name):
    preprocessor = Preprocessor.fit(SCHEMA, SEEN, keys={"hex": Keys("hex")})
    write(ROWS, tmp_path / name)
    columns = Columns(preprocessor.schema, preprocessor.dense_state, preprocessor.vocabularies, labeled=False)
    with ThreadPoolExecutor(2) as executor:
        packed = [columns.work(block, executor) for block in open_table(tmp_path / name).blocks(columns.names)]
    found = {c.column: (c.values, c.unseen) for c in columns.unseen.columns()}
    assert found == COUNTS
    tally = Tally()
    for rows in packed:
        tally.add_packed(preprocessor.schema, rows.sparse)
    # Of packed rows, a column without an OOV row does not tell unseen values from missing ones; digits that are missing are 0.
    assert {c.column: c.unseen for c in tally.columns()} == {"user": 2, "tags": 4, "hex": 3}
    assert (np.concatenate([rows.sparse for rows in packed]) != PADDING).sum() == 5 + 3 + 7 + 6


def test_a_table_of_the_worst_columns_and_a_warning_fit_a_terminal():
    many = [Unseen(f"column {i} " + "x" * 60, 1000, i) for i in range(30)]
    assert [c.unseen for c in worst(many)] == list(range(29, 19, -1))
    assert warning(many) == ""
    show = click.command(lambda: print_unseen([*many, Unseen("user", 50, 49), Unseen("few", 2, 2)]))
    shown = CliRunner().invoke(show)
    lines = shown.stdout.splitlines()
    assert len(lines) == 13 and max(map(len, lines)) <= 80 and "98.0%" in shown.stdout
    assert "98% of the values of 'user' are unseen" in shown.stderr
    assert CliRunner().invoke(click.command(lambda: print_unseen([Unseen("user", 50, 0)]))).output == ""
