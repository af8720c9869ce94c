"""The synthetic twin: what is measured of a log, what is not told, and that the twin measures the same."""

import dataclasses
import json
import pickle

import numpy as np
import polars as pl
import pytest

import keras_dlrm.data as data
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.data.synthetic import (
    PlantedClickLog,
    StackProfile,
    Statistics,
    Twin,
    comparison_png,
    differences,
    measure,
)
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral

SCHEMA = Schema(
    dense=["x", "y"],
    categorical=[
        Categorical("a", 5000),
        Categorical("tags", 300, hotness=4),
        Categorical("last", 300, table="tags"),
        Categorical("b", 3),
    ],
)
# What two draws of the same distribution may differ by, in 30,000 rows and more.
BOUNDS = {"frequency": 0.015, "lengths": 0.012, "dense": 0.015}


def assert_alike(first, second, **bounds):
    found = differences(first, second)
    for name, bound in {**BOUNDS, **bounds}.items():
        worst = max(found[name].values(), default=0.0) if isinstance(found[name], dict) else found[name]
        assert worst <= bound, (name, found[name])
    for name, column in first.sparse.items():
        # How often a bucket of rare ids comes is random.
        assert abs(column.distinct - second.sparse[name].distinct) <= 0.02 * column.distinct + 2 * column.distinct**0.5
    assert found["click_rate"] <= 4 * np.sqrt(first.click_rate * (1 - first.click_rate) / second.rows) + 1e-6


def write(folder, schema, batch, label):
    with PackedWriter(folder, schema) as writer:
        writer.append("train", batch, label)
    return data.open(folder).split("train")


@pytest.fixture(scope="module")
def planted():
    return measure(PlantedClickLog(SCHEMA, seed=1, click_rate=0.1), rows=40_000)


@pytest.mark.slow
def test_the_twin_of_a_planted_log_measures_the_same(planted):
    twin = Twin(planted, seed=5)
    assert_alike(planted, measure(twin, rows=40_000), correlation=0.03, auc=0.02)
    assert twin.best_auc == pytest.approx(planted.auc, abs=0.01)
    assert twin.best_logloss < 0.325


@pytest.mark.slow
def test_fewer_rows_hold_as_many_different_ids_as_fewer_rows_of_the_original(planted):
    few = measure(PlantedClickLog(SCHEMA, seed=1, click_rate=0.1), rows=5000)
    again = measure(Twin(planted, seed=1), rows=5000)
    for name in ("a", "tags"):
        assert again.sparse[name].distinct == pytest.approx(few.sparse[name].distinct, rel=0.05)


@pytest.mark.slow
def test_missing_values_repeated_values_and_dependent_columns_are_kept(tmp_path):
    random = np.random.default_rng(0)
    n = 40_000
    schema = Schema(
        dense=["count", "price"], categorical=[Categorical("item", 3000), Categorical("tags", 40, hotness=5)]
    )
    count = np.where(random.random(n) < 0.4, 0.0, random.poisson(3.0, n)).astype(np.float32)
    price = np.exp(random.normal(0, 1.5, n) + 0.4 * count).astype(np.float32)
    item = np.minimum(random.geometric(0.01, n) - 1 + (count * 20).astype(int), 2999)
    item = np.where(random.random(n) < 0.3, PADDING, item)
    tags = np.where(np.arange(5) < random.binomial(5, 0.3, n)[:, None], random.integers(0, 40, (n, 5)), PADDING)
    label = (random.random(n) < np.where(count == 0, 0.02, 0.2)).astype(np.float32)
    batch = {"dense": np.stack([count, price], 1), "sparse": np.concatenate([item[:, None], tags], 1).astype(np.int32)}
    split = write(tmp_path / "log", schema, batch, label)
    found = measure(split)
    assert found.sparse["item"].lengths[0] == pytest.approx(0.3, abs=0.01)
    assert found.dense["count"].exact.count(True) >= 8
    assert np.array(found.correlation)[0, 1] > 0.3
    twin = Twin(found, seed=1)
    again = measure(twin, rows=n)
    assert_alike(found, again, correlation=0.06, auc=0.02)
    drawn = np.concatenate([b["dense"][:, 0] for b, _ in twin.batches(8192, rows=n)])
    assert (drawn == 0).mean() == pytest.approx((count == 0).mean(), abs=0.01)


@pytest.mark.slow
def test_stack_distances_are_kept_where_asked_for():
    schema = Schema(categorical=[Categorical("a", 4000)])
    from keras_dlrm.data.synthetic import TraceClickLog

    asked = StackProfile.power(1.2, 300, 0.03)
    found = measure(TraceClickLog(schema, asked), rows=50_000)
    again = measure(Twin(found, ids="locality"), rows=50_000)
    assert differences(found, again)["locality"]["a"] < 0.02
    by_frequency = measure(Twin(found), rows=50_000)
    assert differences(found, by_frequency)["locality"]["a"] > 0.2
    assert differences(found, by_frequency)["frequency"]["a"] < 0.015


@pytest.mark.slow
def test_rows_of_a_twin_do_not_depend_on_the_batch_size_and_are_written(planted, tmp_path):
    def rows(size):
        parts = list(Twin(planted, 3).batches(size, rows=9000, part="valid"))
        return np.concatenate([b["sparse"] for b, _ in parts]), np.concatenate([label for _, label in parts])

    (one, label), (two, again) = rows(9000), rows(777)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(label, again)
    written = Twin(planted, 3).write(tmp_path / "twin", {"valid": 9000, "test": 2000})
    np.testing.assert_array_equal(written.split("valid").arrays()[0]["sparse"], one)
    assert written.best["auc"] == pytest.approx(planted.auc, abs=0.03)
    assert (Twin(planted, 4).write(tmp_path / "b", {"valid": 9000}).split("valid").arrays()[0]["sparse"] != one).any()


# -- what is not told --------------------------------------------------------------------------------------------------


def test_no_figure_stands_for_fewer_than_the_threshold():
    found = measure(PlantedClickLog(SCHEMA, seed=1), rows=20_000, threshold=50)
    for column in found.sparse.values():
        assert min(column.references) >= 50
        weights = column.locality.weights * min(20_000, 2**17)
        assert weights.min() >= 49
    for dense in found.dense.values():
        assert min(dense.shares) * 20_000 >= 50 - 1e-6


def test_a_rare_row_leaves_no_trace_in_the_file(tmp_path):
    random = np.random.default_rng(1)
    n = 5000
    schema = Schema(dense=["salary"], categorical=[Categorical("person", 10_000), Categorical("kind", 50, hotness=3)])
    dense = random.normal(50_000, 9000, (n, 1)).astype(np.float32)
    dense[17] = 987_654_321.0
    sparse = np.concatenate([random.integers(0, 40, (n, 1)), np.full((n, 3), PADDING)], axis=1).astype(np.int32)
    sparse[:, 1] = 7
    sparse[17] = [8765, 1, 2, 3]
    text = json.dumps(
        measure(write(tmp_path / "log", schema, {"dense": dense, "sparse": sparse}, np.zeros(n))).to_dict()
    )
    found = json.loads(text)
    assert "8765" not in text and "987654" not in text
    # One row alone had three kinds: it is not told that there was one.
    assert found["sparse"]["kind"]["lengths"] == [0.0, 1.0, 0.0, 0.0]
    values = set(dense[:, 0].tolist())
    assert not [v for v in found["dense"]["salary"]["values"] if v in values]


def test_a_column_that_few_rows_have_is_told_as_missing(tmp_path):
    schema = Schema(dense=["x"], categorical=[Categorical("rare", 99, hotness=2)])
    sparse = np.full((1000, 2), PADDING, np.int32)
    sparse[:3] = [[41, 42], [43, PADDING], [41, PADDING]]
    found = measure(
        write(tmp_path / "log", schema, {"dense": np.zeros((1000, 1)), "sparse": sparse}, np.arange(1000) % 2)
    )
    assert found.sparse["rare"].lengths == [1.0, 0.0, 0.0] and found.sparse["rare"].ids == []
    assert (next(Twin(found).batches(100))[0]["sparse"] == PADDING).all()
    # Each length alone has fewer than the threshold.
    few = {"dense": np.zeros((30, 1)), "sparse": np.repeat(sparse[:3], 10, axis=0)}
    assert max(measure(write(tmp_path / "few", schema, few, np.arange(30) % 2)).sparse["rare"].lengths) in (
        1.0,
        0.666667,
    )


def test_too_few_rows_are_refused_and_small_logs_work(tmp_path):
    schema = Schema(dense=["x"], categorical=[Categorical("a", 9)])
    log = PlantedClickLog(schema)
    with pytest.raises(ValueError, match="19 rows are fewer than threshold=20"):
        measure(log, rows=19)
    small = measure(log, rows=20)
    assert small.sparse["a"].references == [20] and len(small.dense["x"].values) == 1
    measure(Twin(small), rows=20)
    one = measure(log, rows=1, threshold=1)
    schema.validate(next(Twin(one).batches(10))[0])
    with pytest.raises(ValueError, match="give rows"):
        measure(log)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_columns_that_are_all_missing_and_labels_that_are_all_equal_work(label, tmp_path):
    schema = Schema(dense=["x"], categorical=[Categorical("a", 9), Categorical("b", 4)], weighted=True)
    batch = {
        "dense": np.full((100, 1), 2.5, np.float32),
        "sparse": np.tile(np.array([[PADDING, 3]], np.int32), (100, 1)),
        "weights": np.tile(np.array([[0, 1]], np.float32), (100, 1)),
    }
    found = Statistics.from_dict(
        json.loads(json.dumps(measure(write(tmp_path / "l", schema, batch, np.full(100, label))).to_dict()))
    )
    twin, drawn = next(Twin(found).batches(50))
    assert (drawn == label).all() and (twin["sparse"][:, 0] == PADDING).all() and (twin["dense"] == 2.5).all()
    assert len(np.unique(twin["sparse"][:, 1])) == 1
    for ids in ("frequency", "locality"):
        Twin(found, ids=ids).write(tmp_path / ids, {"train": 100, "test": 30})
    comparison_png(found, found, tmp_path / "x.png")


def test_unbounded_ids_are_measured_by_the_rows_that_they_take(tmp_path):
    schema = Schema(categorical=[Categorical("h", 100, hashed=True)])
    ids = np.random.default_rng(0).integers(0, 2**31 - 1, (5000, 1)).astype(np.int32)
    found = measure(write(tmp_path / "log", schema, {"sparse": ids}, np.arange(5000) % 2))
    assert found.sparse["h"].distinct == 100
    assert measure(Twin(found), rows=5000).sparse["h"].distinct == 100


# -- files and errors --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_statistics_survive_their_file_and_damage_is_named(planted, tmp_path):
    path = tmp_path / "statistics.json"
    planted.save(path)
    again = Statistics.load(path)
    apart = differences(planted, again)
    assert apart["click_rate"] == apart["auc"] == apart["correlation"] == 0.0 and again.schema == planted.schema
    assert max(max(apart[name].values()) for name in ("frequency", "distinct", "lengths", "locality", "dense")) < 1e-12
    next_rows = next(Twin(again).batches(100))[0]["sparse"]
    np.testing.assert_array_equal(next_rows, next(Twin(planted).batches(100))[0]["sparse"])
    whole = planted.to_dict()
    for change, message in [
        ({"format": "x"}, "not the statistics"),
        ({"version": 9}, "version 9"),
        ({"sparse": {}}, "columns are not those"),
        ({"correlation": [[1.0]]}, "6 x 6"),
        ({"sparse": None}, "damaged"),
        ({"sparse": {**whole["sparse"], "b": {**whole["sparse"]["b"], "ids": [9]}}}, "column 'b'"),
        ({"dense": {**whole["dense"], "x": {**whole["dense"]["x"], "values": []}}}, "column 'x'"),
    ]:
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(ValueError, match=message) as error:
            Statistics.load(path)
        assert str(path) in str(error.value)
    path.write_text("{")
    with pytest.raises(ValueError, match="statistics.json: not valid JSON"):
        Statistics.load(path)
    planted.save(tmp_path / "new" / "statistics.json")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["statistics.json"]
    with pytest.raises(ValueError, match="must be a Statistics"):
        Twin({})
    with pytest.raises(ValueError, match="ids='rank'"):
        Twin(planted, ids="rank")
    other = dataclasses.replace(planted, dense={})
    with pytest.raises(ValueError, match="dense columns"):
        differences(planted, other)


def test_the_picture_is_drawn(planted, tmp_path):
    comparison_png(planted, planted, tmp_path / "twin.png", title="Planted")
    assert (tmp_path / "twin.png").stat().st_size > 30_000


# -- real logs ---------------------------------------------------------------------------------------------------------


def real_logs(shared, folder):
    frappe = pl.read_csv(shared / "data" / "frappe_x1" / "valid.csv")
    names = [n for n in frappe.columns if n != "label"]
    schema = Schema(categorical=[Categorical(n) for n in names])
    yield data.tables.preprocess(schema, shared / "data" / "frappe_x1" / "valid.csv", output=folder / "frappe")
    criteo = shared / "data" / "criteo" / "kaggle_rows90k-110k_idx.csv"
    from keras_dlrm.schema.schema import Dense

    table = (
        pl.read_csv(criteo).drop("Id").with_columns(pl.col(f"C{i}").cast(pl.Int64, strict=False) for i in range(1, 27))
    )
    table.write_parquet(folder / "criteo.parquet")
    schema = Schema(
        [Dense(f"I{i}", transform="log1p") for i in range(1, 14)], [Categorical(f"C{i}") for i in range(1, 27)]
    )
    yield data.tables.preprocess(schema, folder / "criteo.parquet", output=folder / "criteo")


@pytest.mark.slow
def test_a_log_is_pickled():
    planted = PlantedClickLog(SCHEMA, seed=1)
    for log in (planted, Twin(measure(planted, rows=500))):
        again = pickle.loads(pickle.dumps(log))
        for one, other in zip(log.batches(50, n_batches=2), again.batches(50, n_batches=2), strict=True):
            np.testing.assert_array_equal(one[0]["sparse"], other[0]["sparse"])


@pytest.mark.slow
def test_twins_of_real_logs_measure_the_same(shared, tmp_path):
    for log in real_logs(shared, tmp_path):
        found = measure(log.split("train"))
        again = measure(Twin(found, seed=2), rows=found.rows)
        assert_alike(found, again, frequency=0.03, dense=0.02, correlation=0.2)
