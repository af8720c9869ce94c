"""Schemas inferred from awkward tables: right, or a sentence that says what is needed; and the schema does for preprocessing."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest

import keras_dlrm as kd

pytestmark = pytest.mark.neutral
N = 1000
rng = np.random.default_rng(2)
CLICKS = rng.integers(0, 2, N).tolist()
CITY = rng.choice(["Oslo", "Rome", "Lima"], N).tolist()
START = dt.datetime(2024, 1, 1)
HOURS = [START + dt.timedelta(hours=i) for i in range(N)]


def skewed(kinds):
    return (rng.zipf(1.5, N) % kinds).tolist()


def pick(*values):
    return [values[i] for i in rng.integers(0, len(values), N)]


def summary(schema):
    """Transform of each dense column, hotness of each sparse one, and `None` for those that were left out."""
    kinds = {c.name: c.transform for c in schema.dense if c.of is None}
    kinds |= {c.name: c.hotness for c in schema.categorical if c.of is None}
    return {**kinds, **dict.fromkeys(schema.inferred.left_out)}


DATES = {
    "iso": [str(time.date()) for time in HOURS],
    "german": [f"{time:%d.%m.%Y}" for time in HOURS],
    "american": [f"{time:%m/%d/%Y %H:%M}" for time in HOURS],
    "named": [f"{time:%b %d, %Y}" for time in HOURS],
    "log": [f"{time:%d/%b/%Y:%H:%M:%S} +0000" for time in HOURS],
    "zulu": [f"{time.isoformat()}Z" for time in HOURS],
    "date": [int(f"{time:%Y%m%d}") for time in HOURS],
    "duration": [dt.timedelta(hours=i) for i in range(N)],
    "clock": [time.time() for time in HOURS],
}
ZONES = {
    "utc": pl.Series(HOURS).dt.replace_time_zone("UTC"),
    "oslo": pl.Series(HOURS).dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Oslo"),
    "offset": [f"{time.isoformat()}+02:00" for time in HOURS],
}
FLOAT_IDS = {
    "user_id": [None if i % 9 == 0 else float(i) for i in skewed(90)],
    "itemid": [f"{i}.0" for i in skewed(90)],
    "city": CITY,
}
HUGE = {
    "item": [2**62 + i for i in skewed(90)],
    "hash": [2**63 + i for i in skewed(90)],
    "digits": [str(10**25 + i) for i in skewed(90)],
    "row": [2**60 + i for i in range(N)],
}
CONSTANTS = {
    "version": ["1.2"] * N,
    "zero": [0] * N,
    "flag": pick("Y", None),
    "one": pick(1.0, None),
    "lists": [["a"]] * N,
    "none": [None] * N,
}
LEAKS = {
    "paid": [9.5 if click else None for click in CLICKS],
    "copy": ["clicked" if click else "seen" for click in CLICKS],
    "noisy": [click if i % 200 else 1 - click for i, click in enumerate(CLICKS)],
    "amount": [str(click * 3 + 0.5 * rng.random()) for click in CLICKS],
    "hint": [click if i % 12 else 1 - click for i, click in enumerate(CLICKS)],
}
LISTS = {
    "tags": [CITY[: i % 6] for i in range(N)],
    "history": [skewed(N)[: i % 300] for i in range(N)],
    "pair": np.array([skewed(9), skewed(9)]).T,
    "bars": pick("a|b", "b", "a|c|b", None),
    "commas": [",".join(sorted(set(pick(*"abcdefgh")[:4]))) for _ in range(N)],
    "vector": [[0.5, 1.5]] * N,
    "empty": [[]] * N,
    "json": pick("[1, 2]", "[3]", "[]"),
    "maybe": [None, ["a"], ["a", "b"], []] * (N // 4),
}
NESTED = {
    "record": [{"a": 1, "b": "x"}] * N,
    "deep": [[[1], [2]]] * N,
    "records": [[{"a": 1}]] * N,
    "json": ['{"a": 1}'] * (N - 1) + ['{"a": 2}'],
    "city": CITY,
}
BINARY = {
    "raw": [b"\x00\xff"] * N,
    "yes": pick(True, False),
    "text": pick("True", "false"),
    "bit": pick(0, 1),
    "sign": pick(-1, 1),
    "maybe": pick(True, None, False),
}
DECIMALS = {
    "price": [Decimal(i % 90) / 4 for i in range(N)],
    "item_id": [Decimal(i) for i in skewed(90)],
    "balance": [Decimal("-1.5"), Decimal("2.25")] * (N // 2),
}
ENUMERATIONS = {
    "size": pl.Series(pick("S", "M", "L"), dtype=pl.Enum(["S", "M", "L"])),
    "country": pl.Series(pick("NO", "PE"), dtype=pl.Categorical),
    "level": pl.Series(pick("1", "2", "3"), dtype=pl.Enum(["1", "2", "3"])),
}
NEGATIVE = {
    "user_id": [-i * 7919 for i in skewed(90)],
    "hash": [int(v) for v in rng.choice(rng.integers(-(2**63), 2**63 - 1, 90), N)],
    "x": rng.permutation(N) - 500,
}
DRESSED = {
    "price": [f"${i % 90 + 0.5}" for i in range(N)],
    "sales": [f"{i % 90 + 1},{i % 7}00" for i in range(N)],
    "share": [f"{i % 90}%" for i in range(N)],
    "spaced": [f" {i % 90}" for i in range(N)],
    "gaps": pick("1.5", "2.5", "7.25", "n/a"),
    "nan": pick("1.5", "2.25", "NaN"),
    "icd": pick("250", "401", "V45", "E11", "Z3", "M1"),
    "hexadecimal": pick("5e3210", "123456", "1e9999", "777777"),
    "zip": pick("01234", "10115"),
    "city": CITY,
}

TABLES = {
    "dates as text": (DATES | {"city": CITY}, {"city": 1, **dict.fromkeys(DATES)}),
    "time zones": (ZONES | {"city": CITY}, {"city": 1, "utc": None, "oslo": None, "offset": None}),
    "ids as floats": (FLOAT_IDS, {"user_id": 1, "itemid": 1, "city": 1}),
    "huge integers": (HUGE, {"item": 1, "hash": 1, "digits": 1, "row": None}),
    "constants": (CONSTANTS, {"flag": 1, "one": 1, "lists": 1, "version": None, "zero": None, "none": None}),
    "leaks": (LEAKS, {"hint": 1, "paid": None, "copy": None, "noisy": None, "amount": None}),
    "lists": (
        LISTS,
        {
            "tags": 5,
            "history": 50,
            "pair": 2,
            "bars": 3,
            "maybe": 2,
            "commas": None,
            "vector": None,
            "empty": None,
            "json": None,
        },
    ),
    "nested": (NESTED, {"city": 1, "record": None, "deep": None, "records": None, "json": None}),
    "binary": (BINARY, {"yes": 1, "text": 1, "bit": 1, "sign": 1, "maybe": 1, "raw": None}),
    "decimals": (DECIMALS, {"price": "distinct_quantile", "balance": "distinct_quantile", "item_id": 1}),
    "enumerations": (ENUMERATIONS, {"size": 1, "country": 1, "level": 1}),
    "negative ids": (NEGATIVE, {"x": "distinct_quantile", "user_id": 1, "hash": 1}),
    "numbers as people write them": (
        DRESSED,
        {
            "nan": "distinct_quantile",
            "icd": 1,
            "hexadecimal": 1,
            "zip": 1,
            "city": 1,
            **dict.fromkeys(["price", "sales", "share", "spaced", "gaps"]),
        },
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_an_awkward_table(tmp_path, name):
    table, expected = TABLES[name]
    frame = pl.DataFrame({"click": CLICKS, **table}, strict=False)
    schema = kd.Schema.infer(frame, label="click")
    assert summary(schema) == expected
    assert kd.Schema.from_yaml(schema.to_yaml()) == schema
    log = kd.data.tables.preprocess(schema, frame, output=tmp_path / "log", split={"train": 0.8, "test": 0.2})
    assert len(log.split("train")) == 800
    if not any(kind.is_nested() or kind in (pl.Duration, pl.Time, pl.Binary, pl.Decimal) for kind in frame.dtypes):
        frame.write_csv(tmp_path / "log.csv")
        assert summary(kd.Schema.infer(tmp_path / "log.csv", label="click")) == expected


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        (
            DATES,
            "german",
            "a time, from 2024-01-01 00:00:00 to 2024-02-11 00:00:00; written as 2024-01-31 it would order",
        ),
        (DATES, "duration", "make it a number or a text"),
        (HUGE, "row", "has 1,000 values in 1,000 rows: it names rows"),
        (CONSTANTS, "version", "is always '1.2'"),
        (LEAKS, "amount", "gives the label away, with AUC 1.000 by itself; add it if it is known before the click"),
        (LISTS, "commas", "separated by ','; separate them by '|', or make it a column of lists"),
        (LISTS, "json", "holds lists such as"),
        (LISTS, "vector", "such as an embedding; "),
        (NESTED, "json", "holds records such as"),
        (BINARY, "raw", "holds Binary; make it a number or a text"),
        (DRESSED, "price", "holds numbers such as '$0.5'; write them as 1234.5, without spaces, signs or marks"),
        (DRESSED, "gaps", "holds numbers and 'n/a'; if that means missing, leave the field empty or give --csv-null"),
    ],
)
def test_what_cannot_be_told_is_asked_for_in_a_sentence(table, column, words):
    schema = kd.Schema.infer(pl.DataFrame({"click": CLICKS, **table, "city_": CITY}, strict=False), label="click")
    assert words in schema.inferred.left_out[column]


@pytest.mark.slow
def test_400_columns():
    rows = {f"x{i}": rng.normal(size=N) for i in range(200)} | {
        f"s{i}": rng.choice(["a", "b", "c"], N) for i in range(200)
    }
    schema = kd.Schema.infer({"click": CLICKS, **rows}, label="click")
    assert (schema.n_dense, len(schema.categorical), schema.inferred.left_out) == (200, 200, {})


def test_a_pandas_column_of_several_kinds():
    mixed = pd.DataFrame({"click": CLICKS, "mixed": pd.Series(pick(1, "a", 2.5, None, True, "b", "c"), dtype=object)})
    mixed["dates"] = pd.Series(pick(dt.date(2024, 1, 1), dt.date(2024, 1, 2), None), dtype=object)
    mixed["stamps"] = pd.date_range("2024-01-01", periods=N, freq="h", tz="Europe/Oslo")
    mixed["whole"] = pd.array(pick(1, 2, 3, None), dtype="Int64")
    mixed["kind"] = pd.Categorical(pick("a", "b", "c"))
    mixed["words"] = pd.Series(pick("a", "b", None), dtype="string")
    schema = kd.Schema.infer(mixed, label="click")
    assert summary(schema) == {"mixed": 1, "whole": 1, "kind": 1, "words": 1, "dates": None, "stamps": None}


def test_a_name_that_occurs_twice(tmp_path):
    (tmp_path / "log.csv").write_text("click,a,a\n1,2,3\n0,2,3\n")
    twice = pd.DataFrame([[1, 2, 3]] * 9, columns=["click", "a", "a"])
    for data in (tmp_path / "log.csv", twice):
        with pytest.raises(ValueError, match="has 2 columns 'a'; rename or drop all but one"):
            kd.Schema.infer(data, label="click")


def test_five_rows_are_taken_with_a_warning():
    rows = {
        "click": [0, 1, 0, 1, 1],
        "user_id": [1, 2, 3, 4, 5],
        "price": [1.5, 2.5, 9.5, 3.0, 4.0],
        "paid": [0, 1, 0, 1, 1],
    }
    schema = kd.Schema.infer(rows, label="click")
    assert summary(schema) == {"price": "distinct_quantile", "user_id": 1, "paid": 1}
    assert "5 rows say little about columns: check each line." in schema.to_yaml()


def test_rows_of_one_label():
    schema = kd.Schema.infer({"click": [0] * N, "city": CITY}, label="click")
    assert "All labels are 0: a model has nothing to learn from these rows." in schema.to_yaml()


def test_text_files_written_in_another_way(tmp_path):
    lines = [f"{click};{i % 90};{city};\\N\n" for i, (click, city) in enumerate(zip(CLICKS, CITY, strict=True))]
    (tmp_path / "log.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match="no Parquet, CSV or TSV file by its ending; give csv="):
        kd.Schema.infer(tmp_path / "log.txt", label="click")
    csv = kd.data.CsvDialect(";", ["click", "item", "city", "nothing"], [r"\N"])
    assert summary(kd.Schema.infer(tmp_path / "log.txt", "click", csv=csv)) == {"item": 1, "city": 1, "nothing": None}
    with pytest.raises(ValueError, match="has 4 columns; names of 2 are given"):
        kd.Schema.infer(tmp_path / "log.txt", "click", csv=kd.data.CsvDialect(";", ["click", "item"]))


def test_texts_that_may_mean_missing_are_asked_about():
    schema = kd.Schema.infer({"click": CLICKS, "city": pick("Oslo", "?", "Rome", "N/A")}, label="click")
    assert "Some texts look like missing values: give --csv-null '?' --csv-null N/A if they are." in schema.to_yaml()
