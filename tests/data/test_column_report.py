"""The column report: shares of missing values, unused columns, and notes on odd numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from keras_dlrm.cli import main
from keras_dlrm.data.tables.column_report import column_report
from keras_dlrm.schema.inference.sampling import sample
from keras_dlrm.schema.schema import Categorical, Dense, Schema
from keras_dlrm.schema.vectors import SemanticIds

pytestmark = pytest.mark.neutral
SCHEMA = Schema(
    dense=[Dense("price", transform="standardize"), Dense("balance", transform="log1p")],
    categorical=[Categorical("user"), Categorical("tags", hotness=2)],
    label="click",
)


def rows() -> dict[str, list]:
    prices = [None if i % 4 == 0 else float(i) for i in range(400)]
    prices[399] = 1e7
    return {
        "price": prices,
        "balance": [float(i - 100) for i in range(400)],
        "user": ["" if i < 40 else f"u{i % 7}" for i in range(400)],
        "tags": [[] if i < 200 else ["a", "b"] for i in range(400)],
        "note": ["x"] * 400,
        "click": [i % 2 for i in range(400)],
    }


def test_shares_notes_and_unused_columns() -> None:
    found = {row["column"]: row for row in column_report(SCHEMA, sample(rows()))}
    assert {name: row["missing"] for name, row in found.items()} == {
        "price": "25.0%", "balance": "0.0%", "user": "10.0%", "tags": "50.0%", "note": "0.0%",
    }  # fmt: skip
    within = np.quantile([abs(p) for p in rows()["price"] if p is not None], 0.99, method="nearest")
    assert found["price"]["note"] == f"up to 1e+07, 99% within {within:.3g}: try quantile"
    assert found["balance"]["note"] == "25.0% below 0 become 0"
    assert found["note"]["kind"] == "not used"


def test_text_files_have_the_same_report(tmp_path: Path) -> None:
    table = pl.DataFrame({name: values for name, values in rows().items() if name != "tags"})
    table.write_csv(tmp_path / "log.csv")
    schema = Schema(SCHEMA.dense, ["user"], "click")
    assert column_report(schema, sample([tmp_path / "log.csv"])) == column_report(schema, sample(table))


def test_preprocess_ends_with_it_and_asks_for_a_validation_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame(rows()).write_parquet(tmp_path / "log.parquet")
    SCHEMA.save(tmp_path / "log.yaml")
    command = ["preprocess", "tables", "--schema", str(tmp_path / "log.yaml"), "--train", str(tmp_path / "log.parquet"), "--json"]
    main([*command, "--output", str(tmp_path / "log")])
    said = capsys.readouterr()
    assert "25.0% below 0 become 0" in said.out and "not used" in said.out
    assert [row["column"] for row in json.loads(said.out.splitlines()[-1])["columns"]][-1] == "note"
    assert "warning" in said.err and "no validation part" in said.err and "--fractions 0.8 0.1 0.1" in said.err
    main([*command, "--output", str(tmp_path / "parts"), "--fractions", "0.8", "0.1", "0.1"])
    assert capsys.readouterr().err == ""
    new = ["preprocess", "tables", "--preprocessor", str(tmp_path / "log"), "--train", str(tmp_path / "log.parquet")]
    main([*new, "--output", str(tmp_path / "new")])
    assert capsys.readouterr().err == ""


def test_preprocess_tells_how_well_codes_tell_content_vectors_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Two vectors have a code of their own; two others, nearly equal ones, share the third code.
    vectors = [[0.0, 0.0], [0.0, 8.0], [8.0, 0.0], [8.0, 0.1], None]
    log = pl.DataFrame({"v": [vectors[i % 5] for i in range(50)], "click": [i % 2 for i in range(50)]})
    log.write_parquet(tmp_path / "log.parquet")
    Schema((), [SemanticIds("codes", of="v", width=2, levels=1, codes=3)], "click").save(tmp_path / "log.yaml")
    command = ["preprocess", "tables", "--schema", str(tmp_path / "log.yaml"), "--train", str(tmp_path / "log.parquet"), "--json"]
    main([*command, "--output", str(tmp_path / "log")])
    said = capsys.readouterr().out
    assert "Codes of codes: 4 vectors, 50.0% with a unique code; 0.0% of the variance is left" in said
    answer = json.loads(said.splitlines()[-1])
    assert answer["codebooks"]["codes"]["used"] == [3] and answer["codebooks"]["codes"]["perplexity"] == [2.83]
    assert answer["columns"] == [{"column": "v", "kind": "vector", "missing": "20.0%", "note": ""}]
