"""Figures of a report, from packed logs whose values have names."""

import json

import numpy as np
import polars as pl
import pytest

from keras_dlrm import data, metrics
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.schema.columns import Dense
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.training.analysis import affordable, analyze
from keras_dlrm.training.page import page
from keras_dlrm.training.slicing import Slicer, id_counts

pytestmark = pytest.mark.neutral

SCHEMA = Schema(
    dense=[Dense("price", "log1p_standardize"), "age"],
    categorical=[Categorical("country", min_count=2), Categorical("tags", hotness=3), Categorical("user", oov=None)],
    label="click",
)


class Model:
    """A model that looks at the age and the country only."""

    def predict_on_batch(self, batch):
        odds = batch["dense"][:, 1] + 0.3 * batch["sparse"][:, 0] - 1
        return (1 / (1 + np.exp(-odds)))[:, None]


def frame(n, seed, countries):
    random = np.random.default_rng(seed)
    age = random.normal(size=n)
    click = (random.random(n) < 1 / (1 + np.exp(-age))) * 1
    tags = [list(random.choice(["a", "b", "c"], size=k, replace=False)) for k in random.integers(0, 4, n)]
    return pl.DataFrame({
        "price": np.round(np.exp(random.normal(2, 1, n)), 2), "age": age, "country": random.choice(countries, n).tolist(),
        "tags": tags, "user": [f"u{i}" for i in random.integers(0, 40, n)], "click": click,
    })  # fmt: skip


@pytest.fixture(scope="module")
def raw():
    return frame(900, 0, ["fr"] * 12 + ["de"] * 5 + ["it"] * 3), frame(400, 1, ["fr", "de", "it", "<script>", None])


@pytest.fixture(scope="module")
def log(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis") / "log"
    data.tables.preprocess(SCHEMA, train=raw[0], test=raw[1], output=folder)
    return data.open(folder)


@pytest.fixture(scope="module")
def probabilities(log):
    return Model().predict_on_batch(log.split("test").arrays()[0])[:, 0]


def scored(log, probabilities, inside):
    return metrics.scores(np.asarray(log.split("test").labels)[inside], probabilities[inside])


def test_slices_by_value_have_the_names_and_the_rows_of_the_raw_log(log, raw, probabilities):
    table = Slicer(log, "test", probabilities).tables(["country"])[0]
    country = raw[1]["country"]
    expected = {name: (country == name).fill_null(False).to_numpy() for name in ("fr", "de", "it")}
    expected |= {"(unseen)": (country == "<script>").fill_null(False).to_numpy(), "(missing)": country.is_null().to_numpy()}
    assert {row["slice"]: row["rows"] for row in table["rows"]} == {name: int(rows.sum()) for name, rows in expected.items()}
    for row in table["rows"]:
        assert row["auc"] == scored(log, probabilities, expected[row["slice"]])["auc"]


def test_slices_by_frequency_follow_the_exposures_in_the_training_part(log, raw, probabilities):
    table = Slicer(log, "test", probabilities).tables(["country"])[1]
    assert table["by"] == "frequency"
    # fr has 60% of the training rows, de 25% and it 15%: before them are 0%, 60% and 85% of the exposures.
    seen = dict(raw[0]["country"].value_counts().iter_rows())
    shown = {row["slice"]: (row["values"], row["exposures"], row["rows"]) for row in table["rows"]}
    test = dict(raw[1]["country"].value_counts().iter_rows())
    assert shown == {
        "head": (1, seen["fr"], test["fr"]), "torso": (1, seen["de"], test["de"]), "tail": (1, seen["it"], test["it"]),
        "unseen": (None, None, test["<script>"]), "(missing)": (None, None, test[None]),
    }  # fmt: skip
    assert [row["slice"] for row in table["rows"]] == list(shown)


def test_slices_by_exposures_and_age_follow_the_rows_of_the_training_part(tmp_path):
    # Of 400 rows: a in 100 rows from the first on, b in 50 from row 100 on, c in 5 at the end; the others are missing.
    train = pl.DataFrame({"item": ["a"] * 100 + ["b"] * 50 + [None] * 245 + ["c"] * 5, "click": [0, 1] * 200})
    test = pl.DataFrame({"item": ["a", "b", "b", "c", "d", "d", "d", None], "click": [0, 1] * 4})
    data.tables.preprocess(Schema(categorical=["item"], label="click"), train=train, test=test, output=tmp_path / "log")
    tables = Slicer(data.open(tmp_path / "log"), "test", np.full(8, 0.5)).tables(["item"])
    names = ("slice", "values", "exposures", "rows")
    shown = {table["by"]: [tuple(row[name] for name in names) for row in table["rows"]] for table in tables[1:]}
    others = [("unseen", None, None, 3), ("(missing)", None, None, 1)]
    assert shown["exposures"] == [("100 or more", 1, 100, 1), ("10 … 99", 1, 50, 2), ("1 … 9", 1, 5, 1), *others]
    assert shown["age"] == [("first quarter", 1, 100, 1), ("second quarter", 1, 50, 2), ("last quarter", 1, 5, 1), *others]


def test_rows_count_in_the_slice_of_each_value_of_their_list(log, raw, probabilities):
    table = Slicer(log, "test", probabilities).tables(["tags"])[0]
    expected = {tag: raw[1]["tags"].list.contains(tag).to_numpy() for tag in "abc"}
    expected["(missing)"] = (raw[1]["tags"].list.len() == 0).to_numpy()
    assert {row["slice"]: row["rows"] for row in table["rows"]} == {name: int(rows.sum()) for name, rows in expected.items()}


def test_ranges_of_a_dense_column_are_those_of_its_raw_values(log, raw, probabilities):
    (table,) = Slicer(log, "test", probabilities).tables(["price"])
    price = np.sort(raw[1]["price"].to_numpy())
    assert len(table["rows"]) == 10 and sum(row["rows"] for row in table["rows"]) == len(price)
    at = 0
    for row in table["rows"]:
        low, high = (float(end) for end in row["slice"].split(" … "))
        inside = price[at : at + row["rows"]]
        assert (low, high) == (pytest.approx(inside[0], rel=1e-3), pytest.approx(inside[-1], rel=1e-3))
        at += row["rows"]


def test_a_column_with_few_different_numbers_has_a_slice_for_each(tmp_path):
    rows = pl.DataFrame({"n": [0.0, 0, 0, 5, 5, 100_000], "click": [0, 1, 0, 1, 0, 1]})
    schema = Schema(dense=[Dense("n", "log1p_standardize")], label="click")
    data.tables.preprocess(schema, train=rows, test=rows, output=tmp_path / "n")
    (table,) = Slicer(data.open(tmp_path / "n"), "test", np.full(6, 0.5)).tables(["n"])
    assert [(row["slice"], row["rows"]) for row in table["rows"]] == [("0", 3), ("5", 2), ("100,000", 1)]


def test_all_figures_are_json_and_the_columns_that_count_come_first(log, probabilities):
    figures = analyze(Model(), log, "test", probabilities, 64, group_by="user")
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    drops = {row["column"]: row["auc_drop"] for row in figures["importance"]["columns"]}
    assert next(iter(drops)) == "age" and drops["age"] > 0.1
    assert drops["price"] == drops["tags"] == drops["user"] == 0 != drops["country"]
    assert [(table["column"], table["by"]) for table in figures["slices"]][0] == ("age", "value")
    assert {table["column"] for table in figures["slices"]} <= {"age", "country"}
    assert figures["parts"] == {"train": 900, "test": 400}
    batch, labels = log.split("test").arrays()
    users, known = batch["sparse"][:, -1], batch["sparse"][:, -1] >= 0
    assert figures["grouped_auc"] == {
        "column": "user", "groups": len(np.unique(users[known])), "rows": int(known.sum()),
        "auc": metrics.grouped_auc(labels[known], probabilities[known], users[known]),
    }  # fmt: skip
    assert figures["lift"]["gain"] == metrics.lift(labels, probabilities).gain.tolist()


class Counted(Model):
    """Notes the rows of each prediction."""

    def __init__(self):
        self.sizes = []

    def predict_on_batch(self, batch):
        self.sizes.append(len(batch["dense"]))
        return super().predict_on_batch(batch)


def test_importance_takes_no_more_rows_than_it_may(log, probabilities):
    model = Counted()
    importance = analyze(model, log, "test", probabilities, 64, slice_by=(), predictions=300 * 15)["importance"]
    # Whole batches, so that none of another shape has to be compiled: four for each of 1 + 5 columns * 3 shuffles.
    assert model.sizes == [64] * 4 * 16 and (importance["rows"], importance["of"], len(importance["columns"])) == (256, 5, 5)
    model = Counted()
    assert analyze(model, log, "test", probabilities, 64, predictions=0)["importance"]["columns"] == []
    assert model.sizes == []


def test_importance_of_many_columns_is_that_of_those_that_tell_most_by_themselves(log, probabilities):
    model = Counted()
    figures = analyze(model, log, "test", probabilities, 500, slice_by=(), predictions=2 * 3 * 250)["importance"]
    assert model.sizes == [250] * (1 + 2 * 3) and (figures["rows"], figures["of"]) == (250, 5)
    shuffled = [row["column"] for row in figures["columns"]]
    assert len(shuffled) == 2 and shuffled[0] == "age"
    page_of = page({"test": {"auc": 0.7}}, analyze(model, log, "test", probabilities, 500, predictions=1500), "wide")
    assert "Of 5 columns only the 2 that tell most by themselves were shuffled." in page_of


def test_a_long_run_pays_for_more_predictions_and_wide_rows_cost_more():
    wide, narrow = Schema(dense=[f"x{i}" for i in range(400)]), Schema(dense=["x"])
    assert [affordable(wide, rows) for rows in (0, 10**6)] == [10_000, 500_000]
    assert affordable(narrow, 0) == 100_000


def test_a_log_without_names_shows_ids(tmp_path):
    schema = Schema(dense=["x"], categorical=[Categorical("a", 50), Categorical("h", 10, hashed=True)])
    log = PlantedClickLog(schema, seed=1).write(tmp_path / "planted", rows={"train": 400, "test": 200})
    ids = log.split("test").arrays()[0]["sparse"][:, 0]
    tables = Slicer(log, "test", np.full(200, 0.5)).tables(["a", "h", "x"])
    rows = tables[0]["rows"]
    assert len(rows) == 21 and rows[-1]["slice"] == f"(others: {len(np.unique(ids)) - 20} values)"
    assert all(row["rows"] == (ids == int(row["slice"])).sum() for row in rows[:-1])
    bands = ["frequency", "exposures", "age"]
    assert [table["by"] for table in tables] == ["value", *bands, "value", *bands, "value"]
    train = log.split("train").arrays()[0]["sparse"]
    columns = {column.name: (column, i) for i, column in enumerate(schema.categorical)}
    for i, (known, counts, rows) in enumerate(id_counts(log.split("train"), columns).values()):
        values, first, expected = np.unique(train[:, i], return_index=True, return_counts=True)
        assert (known.tolist(), counts.tolist(), rows.tolist()) == (values.tolist(), expected.tolist(), first.tolist())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slice_by": ["contry"]}, r"slice_by: no column 'contry'; use one of \['price', 'age', 'country'"),
        ({"group_by": "price"}, r"group_by: 'price' cannot group rows; .* one value per row: \['country', 'user'\]"),
        ({"group_by": "tags"}, "group_by: 'tags' cannot"),
    ],
)
def test_a_column_that_does_not_fit_is_named(log, probabilities, options, words):
    with pytest.raises(ValueError, match=words):
        analyze(Model(), log, "test", probabilities, 64, **options)


def test_groups_without_both_classes_have_no_auc(log, probabilities):
    class Alone:
        schema, labels, sample_weights = log.schema, np.ones(400), staticmethod(lambda: None)
        arrays = staticmethod(log.split("test").arrays)

    from keras_dlrm.training.analysis import grouped

    assert grouped(Alone, "user", probabilities)["auc"] is None
