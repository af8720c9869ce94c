"""Parts by a column of times, or at random: the earliest rows train, equal times stay together, a stop changes nothing."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers.killed_jobs import Workshop, kill_often, stop_after_commits
from helpers.table_logs import FORMATS, SCHEMA, make_rows, results, save, spoil

import keras_dlrm as kd
from keras_dlrm.data import tables
from keras_dlrm.data.jobs import job as jobs_job
from keras_dlrm.data.jobs import staging as job_stage
from keras_dlrm.data.tables import parts as table_parts
from keras_dlrm.data.tables import records as table_records
from keras_dlrm.data.tables import text as table_text

pytestmark = pytest.mark.neutral
SPLIT = {"train": 0.7, "valid": 0.1, "test": 0.2}
CITIES = kd.Schema(categorical=[kd.Categorical("city")], label="click")
START = dt.datetime(2024, 1, 1)


def timed(rows: list[dict[str, Any]], form: str = "iso", seed: int = 5) -> list[dict[str, Any]]:
    """The rows with times in no order, some of them equal."""
    hours = np.random.default_rng(seed).integers(0, len(rows) * 3 // 4, len(rows)).tolist()
    times: dict[str, Any] = {
        "iso": [(START + dt.timedelta(hours=h)).isoformat() for h in hours],
        "epoch": [1_700_000_000 + 3600 * h for h in hours],
        "fraction": [h / 8 - 20 for h in hours],
    }
    return [{**row, "hour": hour, "when": time} for row, hour, time in zip(rows, hours, times[form], strict=True)]


def by_hand(rows: list[dict[str, Any]], split: dict[str, float] = SPLIT) -> dict[str, list[dict[str, Any]]]:
    """The rows of each part: between two times, at whichever of these a part has nearly its fraction."""
    hours = sorted(row["hour"] for row in rows)
    ends = [round(share * len(rows)) for share in itertools.accumulate(split.values())]
    bounds = [0]
    for end in ends[:-1]:
        candidates = sorted({*hours, max(hours) + 1})
        counts = [sum(hour < bound for hour in hours) for bound in candidates]
        bounds.append(min(zip(candidates, counts, strict=True), key=lambda entry: abs(entry[1] - end))[0])
    bounds.append(max(hours) + 1)
    return {
        name: [row for row in rows if low <= row["hour"] < high]
        for name, (low, high) in zip(split, itertools.pairwise(bounds), strict=True)
    }


@pytest.mark.parametrize(("ending", "form"), [*((ending, "iso") for ending in FORMATS), ("csv", "fraction"), ("tfrecord", "epoch")])
def test_in_every_format_the_parts_are_those_made_by_hand(tmp_path: Path, ending: str, form: str) -> None:
    rows = timed(make_rows(400), form)
    expected = {name: save(part, tmp_path / f"{name}.parquet") for name, part in by_hand(rows).items()}
    inputs = [save(rows[:150], tmp_path / f"a.{ending}"), save(rows[150:], tmp_path / f"b.{ending}")]
    tables.preprocess(SCHEMA, **expected, output=tmp_path / "hand")
    log = tables.preprocess(SCHEMA, inputs, output=tmp_path / "out", split=SPLIT, split_by="when")
    assert results(tmp_path / "out") == results(tmp_path / "hand")
    assert log.manifest["tables"]["split_by"] == "when"


def test_fractions_hold_but_for_rows_of_one_time() -> None:
    rows = timed(make_rows(500))
    counts = [len(part) for part in by_hand(rows).values()]
    assert np.abs(np.cumsum(counts) - [350, 400, 500]).max() <= 3


def small(module: Any) -> None:
    module(table_text, "BLOCK_BYTES", 5000)
    module(table_text, "BLOCK_ROWS", 37)
    module(table_records, "BLOCK_RECORDS", 41)
    module(job_stage, "COMMIT_BYTES", 2000)
    module(job_stage, "CHUNK", 50)
    module(jobs_job, "COMMIT_BYTES", 2000)
    module(table_parts, "_ROWS", 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "split_by"), [("csv", "when"), ("parquet", "when"), ("tfrecord", "when"), ("parquet", "random")]
)
def test_stopped_after_every_commit_it_goes_on_to_the_same_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, split_by: str
) -> None:
    small(monkeypatch.setattr)
    rows = timed(spoil(make_rows(400)))
    inputs = [save(rows[:250], tmp_path / f"a.{ending}"), save(rows[250:], tmp_path / f"b.{ending}")]

    def job(output: Path) -> None:
        tables.preprocess(SCHEMA, inputs, output=output, split=SPLIT, split_by=split_by, on_error="skip", workers=3)

    stop_after_commits(job, tmp_path, monkeypatch, more=0)


PROGRAM = """
from keras_dlrm.data import tables
from keras_dlrm.data.jobs import job as jobs_job, staging as job_stage
from keras_dlrm.data.tables import parts, text as table_text
from keras_dlrm.schema.schema import Schema
table_text.BLOCK_BYTES, table_text.BLOCK_ROWS, parts._ROWS = 20_000, 150, 300
job_stage.COMMIT_BYTES, job_stage.CHUNK, jobs_job.COMMIT_BYTES = 10_000, 200, 10_000

def warm(*arguments):
    pass

def work(schema, inputs, output, arguments):
    tables.preprocess(Schema.from_dict(schema), inputs, output=output, **arguments)
"""


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop(PROGRAM)
    yield workshop
    workshop.close()


@pytest.mark.soak
def test_killed_a_few_times_the_output_is_the_same(workshop: Workshop, tmp_path: Path) -> None:
    path, schema = str(save(timed(make_rows(3000)), tmp_path / "log.csv")), SCHEMA.to_dict()
    arguments = {"split": SPLIT, "split_by": "when"}
    kill_often(workshop, lambda output: (schema, path, str(output), arguments), tmp_path, kills=3, seed=0)


def test_at_random_users_are_in_all_parts_and_the_seed_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "city": f"c{i // 100}", "price": float(i)} for i, row in enumerate(make_rows(1000))]
    schema = kd.Schema(dense=["price"], categorical=[kd.Categorical("city")], label="click")

    def run(name: str, ending: str, **options: Any) -> dict[str, list[float]]:
        path = save(rows, tmp_path / f"{name}.{ending}")
        log = tables.preprocess(schema, path, output=tmp_path / name, split=SPLIT, split_by="random", **options)
        return {part: log.split(part).arrays()[0]["dense"][:, 0].tolist() for part in log.splits}

    found = run("once", "csv")
    assert {part: len(prices) for part, prices in found.items()} == {"train": 700, "valid": 100, "test": 200}
    assert all(prices == sorted(prices) for prices in found.values()), "rows keep the order of the files"
    assert sorted(sum(found.values(), [])) == list(range(1000))
    assert all(5 < sum(100 * k <= price < 100 * k + 100 for price in found["test"]) < 40 for k in range(10))
    small(monkeypatch.setattr)
    assert run("again", "parquet") == found
    assert run("other", "csv", seed=1) != found


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(("ending", "row"), [("csv", "line 9"), ("parquet", "row 7"), ("tfrecord", "row 7")])
@pytest.mark.parametrize("bad", [None, "yesterday", "2024-13-01", "2024-01-01T25:00:00"])
def test_a_row_without_a_time_is_bad(tmp_path: Path, ending: str, row: str, bad: str | None, on_error: str) -> None:
    rows = timed(make_rows(50))
    rows[7]["when"] = bad
    arguments: dict[str, Any] = {"output": tmp_path / "out", "split": SPLIT, "split_by": "when", "on_error": on_error}
    path = save(rows, tmp_path / f"log.{ending}")
    if on_error == "raise":
        with pytest.raises(ValueError, match=f"{row}, column when: value .* must be a time, such as 2024-01-31"):
            tables.preprocess(CITIES, path, **arguments)
    else:
        assert tables.preprocess(CITIES, path, **arguments).manifest["bad_rows"]["skipped"] == 1


@pytest.mark.parametrize("kind", ["polars", "pandas", "zone", "dates", "numpy", "text", "folders"])
def test_dates_of_frames_and_folders(tmp_path: Path, kind: str) -> None:
    days = [START + dt.timedelta(days=(i * 7) % 30) for i in range(30)]
    columns = {"click": [0, 1] * 15, "city": [f"c{i}" for i in range(30)]}
    frames: dict[str, Any] = {
        "polars": lambda: pl.DataFrame({**columns, "when": [day.date() for day in days]}),
        "pandas": lambda: pd.DataFrame({**columns, "when": pd.to_datetime(days)}),
        "zone": lambda: pd.DataFrame({**columns, "when": pd.to_datetime(days).tz_localize("Europe/Oslo")}),
        "dates": lambda: {**columns, "when": [day.date() for day in days]},
        "numpy": lambda: {**columns, "when": np.array(days, "datetime64[s]")},
        "text": lambda: {**columns, "when": [str(day) for day in days]},
    }
    if kind == "folders":
        for i, day in enumerate(days):
            (tmp_path / f"when={day.date()}").mkdir()
            row = pl.DataFrame({name: values[i : i + 1] for name, values in columns.items()})
            row.write_parquet(tmp_path / f"when={day.date()}" / "part.parquet")
    data = str(tmp_path / "when=*" / "*.parquet") if kind == "folders" else frames[kind]()
    log = tables.preprocess(CITIES, data, output=tmp_path / "out", split={"train": 0.9, "test": 0.1}, split_by="when")
    latest = {f"c{i}" for i, day in enumerate(days) if day.day > 27}
    known = log.preprocessor.vocabularies["city"].values.to_list()
    assert set(known) == set(columns["city"]) - latest and len(log.split("test")) == 3


def test_a_column_of_the_schema_orders_rows_too(tmp_path: Path) -> None:
    rows = [{"click": i % 2, "hour": (i * 7) % 24} for i in range(48)]
    schema = kd.Schema(categorical=[kd.Categorical("hour", 24)], label="click")
    log = tables.preprocess(
        schema, pl.DataFrame(rows), output=tmp_path / "out", split={"train": 0.75, "test": 0.25}, split_by="hour"
    )
    assert log.split("train").arrays()[0]["sparse"].max() == 17 and log.split("test").arrays()[0]["sparse"].min() == 18


@pytest.mark.parametrize(
    ("times", "options", "error", "words"),
    [
        ([1] * 10, {}, ValueError, "column 'when' puts no row into the valid part: too many rows have the same value"),
        ([1, "2024-01-01"] * 5, {}, ValueError, "column 'when' holds 5 dates and 5 numbers; write all times in one way"),
        ([1] * 10, {"split": None}, ValueError, r"split_by='when' needs fractions, split=\{'train': 0.8"),
        ([1] * 10, {"split_by": "click"}, ValueError, "is the label or the weight of rows"),
        ([1] * 10, {"split_by": 3}, TypeError, "split_by=3 must be the name of a column, or 'random'"),
        ([1] * 10, {"split_by": "day"}, KeyError, "column 'day' is missing"),
        ([1] * 10, {"seed": -1}, ValueError, "seed=-1 must be an integer >= 0"),
        ([True] * 10, {}, TypeError, "holds Boolean, which is no time"),
    ],
)
def test_what_cannot_be_cut(tmp_path: Path, times: list, options: dict, error: type[Exception], words: str) -> None:
    frame = {"click": [0, 1] * 5, "city": ["a"] * 10, "when": times}
    with pytest.raises(error, match=words):
        tables.preprocess(CITIES, frame, **{"output": tmp_path / "out", "split": SPLIT, "split_by": "when", **options})
