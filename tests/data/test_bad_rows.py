"""Rows that cannot be used stop a job, or are left out and counted."""

from __future__ import annotations

import dataclasses

import pytest

from keras_dlrm.data.preprocessor.bad_rows import EXAMPLES, BadRow, BadRows

pytestmark = pytest.mark.neutral

ROW = BadRow("log.tsv", 3, "C1", "zz", "must be hexadecimal")


def test_the_first_one_is_an_error_by_default() -> None:
    with pytest.raises(ValueError, match=r"log.tsv, line 3, column C1: value 'zz' must be hexadecimal\."):
        BadRows().add([ROW])


def test_skipped_rows_are_counted_and_the_first_kept() -> None:
    bad = BadRows("skip")
    bad.add([ROW] * 3, more=500)
    bad.add([ROW] * EXAMPLES)
    assert bad.skipped == 503 + EXAMPLES and len(bad.examples) == EXAMPLES
    again = BadRows("skip")
    again.restore(bad.state())
    assert again.skipped == bad.skipped and again.examples == bad.examples


def test_too_many_are_an_error() -> None:
    bad = BadRows("skip", most=2)
    bad.add([ROW, ROW])
    with pytest.raises(ValueError, match="3 rows cannot be used, more than max_skipped=2"):
        bad.add([ROW])


def test_a_row_without_a_column_reads_well() -> None:
    assert str(BadRow("t.parquet", 0, "", "", "has 3 columns", "row")) == "t.parquet, row 0: has 3 columns."


@pytest.mark.parametrize("arguments", [("drop",), ("skip", -1), ("skip", True), ("raise", 3)])
def test_wrong_options_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="on_error=|max_skipped="):
        BadRows(*arguments)


def test_of_a_long_value_the_beginning_is_kept() -> None:
    row = BadRow("day_0", 7, "C3", "x" * 10**6, "must be short", "line")
    assert row.value == "x" * 99 + "…" and len(str(row)) < 200
    assert BadRow(**dataclasses.asdict(row)) == row
