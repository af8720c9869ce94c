"""Columns that are made of times: the same hour, weekday and days from every form of a time, in files, frames and requests."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

import keras_dlrm as kd
from keras_dlrm.data import tables
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor

pytestmark = pytest.mark.neutral

SCHEMA = kd.Schema(
    dense=["x", kd.Dense("age", "quantile", of="at", part="days")],
    categorical=[kd.Categorical("hour", of="at", part="hour"), kd.Categorical("weekday", of="at", part="weekday")],
    label="click",
)  # fmt: skip
MOMENTS = [dt.datetime(2024, 1, 31, 12, 30) + dt.timedelta(hours=7 * i, seconds=i) for i in range(40)]
UTC = [moment.replace(tzinfo=dt.UTC) for moment in MOMENTS]
EXPECTED = [[moment.hour, moment.weekday()] for moment in MOMENTS]


def seconds():
    return [int(moment.timestamp()) for moment in UTC]


FORMS = {
    "Polars": lambda: pl.Series(MOMENTS),
    "of a zone": lambda: pl.Series(UTC).dt.convert_time_zone("Asia/Tokyo"),
    "nanoseconds": lambda: pl.Series(MOMENTS).cast(pl.Datetime("ns")),
    "NumPy": lambda: np.array(MOMENTS, "datetime64[ms]"),
    "Python": lambda: MOMENTS,
    "texts": lambda: [moment.isoformat() for moment in MOMENTS],
    "texts of a zone": lambda: [str(moment.astimezone(dt.timezone(dt.timedelta(hours=-3)))) for moment in UTC],
    "seconds": seconds,
    "thousandths as text": lambda: [str(1000 * s) for s in seconds()],
    "millionths": lambda: np.array(seconds()) * 10**6,
    "fractions": lambda: np.array(seconds()) + 0.25,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_time_has_the_same_parts(form):
    preprocessor = Preprocessor.fit(SCHEMA, {"at": MOMENTS, "x": [0.0] * 40})
    packed = preprocessor.transform({"at": FORMS[form](), "x": [0.0] * 40})
    assert packed["sparse"].tolist() == EXPECTED
    assert (np.diff(packed["dense"][:, 1]) > 0).all()


def test_pandas_times_have_them_too():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"at": pandas.to_datetime(MOMENTS).tz_localize("UTC").tz_convert("Europe/Oslo"), "x": 0.0})
    assert Preprocessor.fit(SCHEMA, frame).transform(frame)["sparse"].tolist() == EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "parquet", "frame"])
def test_logs_and_predictions_of_files_have_the_parts(tmp_path, ending):
    frame = pl.DataFrame({"click": [0, 1] * 20, "x": np.arange(40.0), "at": [*MOMENTS[:-1], None]})
    path = frame if ending == "frame" else tmp_path / f"log.{ending}"
    if ending != "frame":
        (frame.write_csv if ending == "csv" else frame.write_parquet)(path)
    log = tables.preprocess(SCHEMA, path, output=tmp_path / "log", split={"train": 0.5, "test": 0.5})
    ids = np.concatenate([log.split(part).arrays()[0]["sparse"] for part in ("train", "test")])
    assert ids.tolist() == [*EXPECTED[:39], [-1, -1]]
    assert kd.data.open(tmp_path / "log").schema == log.schema and log.preprocessor.schema == log.schema
    model = kd.models.LogisticRegression(log.schema)
    model.set_weights([np.random.default_rng(0).normal(size=weight.shape) for weight in model.get_weights()])
    kd.scoring.predict_files(model, path, output=tmp_path / "p.parquet", preprocessor=log.preprocessor)
    expected = np.concatenate([model.predict(log.split(part).dataset(40), verbose=0)[:, 0] for part in ("train", "test")])
    np.testing.assert_allclose(pl.read_parquet(tmp_path / "p.parquet")["probability"], expected, atol=1e-6)


def test_a_bad_time_is_named_and_may_be_skipped(tmp_path):
    frame = pl.DataFrame({"click": [0, 1, 1], "x": [0.0, 1.0, 2.0], "at": ["2024-01-31", "soon", ""]})
    with pytest.raises(ValueError, match="row 1, column age: value 'soon' must be a time, such as 2024-01-31"):
        tables.preprocess(SCHEMA, frame, output=tmp_path / "log")
    log = tables.preprocess(SCHEMA, frame, output=tmp_path / "log", on_error="skip")
    assert log.split("train").arrays()[0]["sparse"].tolist() == [[0, 2], [-1, -1]]


def test_schemas_with_parts_are_checked_and_written():
    assert kd.Schema.from_yaml(SCHEMA.to_yaml()) == SCHEMA
    assert SCHEMA.table_sizes == {"hour": 24, "weekday": 7} and "vocabulary_size" not in SCHEMA.to_yaml()
    for make, message in {
        (lambda: kd.Categorical("h", of="at")): "of='at' and part=None go together",
        (lambda: kd.Categorical("h", of="at", part="year")): "part='year' is unknown; use one of",
        (lambda: kd.Categorical("h", 30, of="at", part="hour")): "part='hour' has 24 ids, one a row",
        (lambda: kd.Dense("h", of="at", part="hour")): "part='hour' is unknown",
        (lambda: kd.Schema(["at", kd.Dense("d", of="at", part="days")])): "is made of 'at', which is a column of its own",
        (lambda: kd.Schema([kd.Dense("d", of="label", part="days")])): "is made of 'label'",
    }.items():
        with pytest.raises(ValueError, match=message):
            make()
