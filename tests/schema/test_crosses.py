"""Crossed columns: the same ids from every kind of parent and on every way of a row, and clear errors."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data import tables
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.metrics import permutation_importance
from keras_dlrm.schema.same_schema import check_same

neutral = pytest.mark.neutral
USER, HOUR, DEVICE = kd.Categorical("user"), kd.Categorical("hour", of="at", part="hour"), kd.Categorical("device", 50, hashed=True)
PAGE = kd.Categorical("page", 9)
SCHEMA = kd.Schema(
    dense=["x"],
    categorical=[
        kd.Crossed("user_hour", ["user", "hour"], buckets=1000), USER, HOUR, DEVICE, PAGE,
        kd.Crossed("all", ["page", "device", "user"], buckets=77),
    ],
    label="click",
)  # fmt: skip
N = 60
ROWS = pl.DataFrame({
    "click": [0, 1] * (N // 2),
    "x": np.arange(N, dtype=np.float64),
    "user": [["Ann", "Bob", None, "3.0", "Eve"][i % 5] for i in range(N)],
    "at": [dt.datetime(2024, 1, 31) + dt.timedelta(hours=i) if i % 7 else None for i in range(N)],
    "device": [["a phone", "7", "9223372036854775807", None][i % 4] for i in range(N)],
    "page": [i % 9 if i % 8 else -1 for i in range(N)],
})  # fmt: skip


def expected_bucket(ids, buckets):
    """The cross of some ids, in Python's integers."""
    mixed = 0
    for number in ids:
        x = (mixed + number) % 2**32
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        mixed = x ^ (x >> 16)
    return mixed % 2**31 % buckets


@neutral
@given(st.lists(st.tuples(*[st.integers(0, 2**31 - 1)] * 3), min_size=1, max_size=5), st.integers(1, 2**31 - 1), st.integers(2, 3))
def test_a_cross_is_the_chained_hash_of_the_ids(rows, buckets, parents):
    names = ["a", "b", "c"][:parents]
    wide = [kd.Categorical(name, 10, hashed=True) for name in names]
    schema = kd.Schema(categorical=[*wide, kd.Crossed("cross", names, buckets)])
    packed = schema.pack({name: [row[i] for row in rows] for i, name in enumerate(names)})["sparse"]
    assert packed[:, -1].tolist() == [expected_bucket(row[:parents], buckets) for row in rows]


@neutral
def test_combinations_of_large_tables_are_spread_evenly():
    schema = kd.Schema(categorical=[kd.Categorical("u", 2**31 - 1), kd.Categorical("h", 24), kd.Crossed("uh", ["u", "h"], 64)])
    users, hours = (values.ravel() for values in np.meshgrid(2**31 - 2 - np.arange(1000), np.arange(24)))
    counts = np.bincount(schema.pack({"u": users, "h": hours})["sparse"][:, 2], minlength=64)
    assert ((counts - 375) ** 2 / 375).sum() < 63 + 5 * np.sqrt(2 * 63)  # χ²


@neutral
def test_packed_rows_and_raw_rows_agree():
    preprocessor = Preprocessor.fit(SCHEMA, ROWS)
    raw = preprocessor.transform(ROWS)
    names = preprocessor.schema.categorical_names
    own = {name: raw["sparse"][:, i] for i, name in enumerate(names) if name not in ("user_hour", "all")}
    packed = preprocessor.schema.pack({"x": ROWS["x"], **own})
    np.testing.assert_array_equal(packed["sparse"], raw["sparse"])
    users, hours = own["user"], own["hour"]
    wanted = [-1 if min(pair) < 0 else expected_bucket(pair, 1000) for pair in zip(users.tolist(), hours.tolist(), strict=True)]
    assert raw["sparse"][:, 0].tolist() == wanted and -1 in wanted and len(set(wanted)) > 20


@neutral
def test_unseen_values_are_one_value_of_a_cross_and_missing_ones_leave_it_out():
    preprocessor = Preprocessor.fit(SCHEMA, ROWS)
    row = {"x": [0.0] * 4, "at": ["2024-01-01T05:00"] * 4, "device": ["7"] * 4, "page": [1] * 4}
    unseen = preprocessor.transform({**row, "user": ["Zoe", "Yan", None, "Ann"]})["sparse"]
    assert unseen[0].tolist() == unseen[1].tolist() and unseen[0, 0] == expected_bucket([0, 5], 1000)
    assert unseen[2, [0, 5]].tolist() == [-1, -1] and unseen[3, 0] not in (-1, unseen[0, 0])


class ArrowTable:
    """A table by Arrow's interface."""

    column_names = ROWS.columns

    def __arrow_c_stream__(self, requested_schema=None):
        return ROWS.__arrow_c_stream__(requested_schema)


@pytest.mark.slow
@neutral
@pytest.mark.parametrize("way", ["csv", "parquet", "Polars", "pandas", "Arrow"])
def test_every_way_of_the_rows_gives_the_same_ids(tmp_path, way):
    if way == "pandas":
        log = pytest.importorskip("pandas").DataFrame(ROWS.to_dict(as_series=False))
    elif way in ("Polars", "Arrow"):
        log = ROWS if way == "Polars" else ArrowTable()
    else:
        log = tmp_path / f"log.{way}"
        (ROWS.write_csv if way == "csv" else ROWS.write_parquet)(log)
    written = tables.preprocess(SCHEMA, log, output=tmp_path / "log", split={"train": 0.5, "test": 0.5})
    opened = kd.data.open(tmp_path / "log")
    assert opened.schema == written.schema and opened.preprocessor.schema == written.schema
    ids = np.concatenate([opened.split(part).arrays()[0]["sparse"] for part in ("train", "test")])
    np.testing.assert_array_equal(ids, opened.preprocessor.transform(ROWS)["sparse"])
    assert (ids[:, 0] >= 0).sum() > 30 and (ids[:, 5] >= 0).sum() > 20


@neutral
def test_new_days_keep_the_crosses_of_known_values(tmp_path):
    first = tables.preprocess(SCHEMA, ROWS, output=tmp_path / "first")
    more = ROWS.with_columns(pl.Series("user", ["Zoe", "Ann"] * (N // 2)))
    grown = tables.preprocess(None, more, output=tmp_path / "second", preprocessor=first.preprocessor, vocabulary="grown")
    assert grown.schema.table_sizes["user"] == first.schema.table_sizes["user"] + 1
    before, after = first.preprocessor.transform(more)["sparse"], grown.split("train").arrays()[0]["sparse"]
    assert (before[1::2] == after[1::2]).all() and (before[::2, 0] != after[::2, 0]).any()
    frozen = tables.preprocess(None, more, output=tmp_path / "third", preprocessor=first.preprocessor)
    np.testing.assert_array_equal(frozen.split("train").arrays()[0]["sparse"], before)


@neutral
def test_schemas_with_crosses_are_written_and_compared():
    fitted = Preprocessor.fit(SCHEMA, ROWS).schema
    for schema in (SCHEMA, fitted):
        assert kd.Schema.from_yaml(schema.to_yaml()) == schema == kd.Schema.from_json(schema.to_json())
        assert kd.Schema.from_dict(schema.to_dict()).categorical == schema.categorical and hash(schema) == hash(schema)
    assert "oov" not in SCHEMA.to_yaml() and fitted.table_sizes["user_hour"] == 1000
    other = fitted.replace_categorical(user_hour={"crossed": ("hour", "user")})
    with pytest.raises(ValueError, match=r"column 'user_hour' has crossed=\('user', 'hour'\) in the model, \('hour', 'user'\)"):
        check_same("evaluate", fitted, other)
    model = kd.models.LogisticRegression(fitted)
    with pytest.raises(ValueError, match="'all' has vocabulary_size=77 and would have 80, where hashed ids would fall"):
        kd.models.grow(model, fitted.replace_categorical(all={"vocabulary_size": 80}))


@neutral
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kd.Crossed("c", ["user"]), r"columns=\['user'\] must be two or more different ones"),
        (lambda: kd.Crossed("c", ["user", "user"]), "must be two or more different ones"),
        (lambda: kd.Crossed("c", ["user", "c"]), "has the column itself; give others"),
        (lambda: kd.Crossed("c", "user"), "columns='user' must be a list of names"),
        (lambda: kd.Crossed("c", ["user", 3]), "name=3 must be a string"),
        (lambda: kd.Crossed("c", ["user", "page"], 0), "Crossed column 'c': buckets=0 must be an integer >= 1"),
        (lambda: kd.Categorical("c", 9, crossed=["a", "b"], hashed=True), "hashed=True is none of its options; leave it out"),
        (lambda: kd.Categorical("c", crossed=["a", "b"]), "needs a vocabulary_size, the rows that combinations are hashed into"),
        (lambda: cross_of("item"), r"crosses 'item', which is unknown; use some of \['user', 'page', 'tags'\]"),
        (lambda: cross_of("x"), "crosses 'x', which is no sparse column"),
        (lambda: cross_of("other"), "crosses 'other', which is a crossed column itself"),
        (lambda: cross_of("tags"), r"crosses 'tags', which holds lists \(hotness=3\); only columns of one value a row"),
    ],
)
def test_crosses_that_cannot_be_are_clear_errors(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def cross_of(name):
    own = [USER, PAGE, kd.Categorical("tags", 9, hotness=3)]
    return kd.Schema(["x"], [*own, kd.Crossed("other", ["user", "page"]), kd.Crossed("c", ["user", name])])


@neutral
def test_pack_takes_no_crossed_column_and_no_weights_of_one():
    schema = kd.Schema(categorical=[PAGE, kd.Categorical("b", 3), kd.Crossed("c", ["page", "b"], 7)], weighted=True)
    batch = schema.pack({"page": [1, -1], "b": [2, 2]}, weights={"page": [0.5, 0.0]})
    assert batch["weights"].tolist() == [[0.5, 1.0, 1.0], [0.0, 1.0, 0.0]]
    with pytest.raises(KeyError, match="unknown column 'c'"):
        schema.pack({"page": [1], "b": [2], "c": [0]})
    with pytest.raises(KeyError, match="weights for unknown column 'c'"):
        schema.pack({"page": [1], "b": [2]}, weights={"c": [1.0]})


@neutral
@pytest.mark.parametrize("kind", ["RandomClickLog", "PlantedClickLog"])
def test_synthetic_logs_have_the_crosses_of_their_ids(kind):
    schema = kd.Schema(categorical=[kd.Categorical("a", 9), kd.Categorical("b", 5), kd.Crossed("c", ["a", "b"], 1000)])
    changes = {"drift": kd.data.synthetic.Drift(50, popularity=1.0)} if kind == "PlantedClickLog" else {}
    batch, _ = next(getattr(kd.data.synthetic, kind)(schema, seed=0, **changes).batches(200))
    a, b, c = batch["sparse"].T.tolist()
    assert c == [expected_bucket(pair, 1000) for pair in zip(a, b, strict=True)]


@neutral
def test_shuffling_a_parent_shuffles_its_crosses():
    schema = kd.Schema(categorical=[kd.Categorical("a", 2), kd.Categorical("b", 2), kd.Crossed("c", ["a", "b"], 100)])
    a, b = np.random.default_rng(0).integers(0, 2, (2, 400))
    batch = schema.pack({"a": a, "b": b})
    clicks = [expected_bucket(pair, 100) for pair in ((0, 1), (1, 0))]
    drops = permutation_importance(lambda rows: np.isin(rows["sparse"][:, 2], clicks) * 0.8 + 0.1, schema, batch, a ^ b)
    assert {row["column"] for row in drops} == {"a", "b"} and all(0.3 < row["auc_drop"] < 0.7 for row in drops)


def test_a_linear_model_learns_from_a_cross_what_no_sum_has():
    schema = kd.Schema(categorical=[kd.Categorical("a", 2), kd.Categorical("b", 2), kd.Crossed("c", ["a", "b"], 100)])
    a, b = np.random.default_rng(0).integers(0, 2, (2, 512))
    model = kd.models.LogisticRegression(schema)
    model.compile("sgd", loss="binary_crossentropy", embedding_optimizer=kd.optimizers.Adagrad(1.0))
    model.fit(schema.pack({"a": a, "b": b}), (a ^ b).astype("float32"), batch_size=64, epochs=5, verbose=0)
    chances = model.predict(schema.pack({"a": [0, 0, 1, 1], "b": [0, 1, 0, 1]}), verbose=0)[:, 0]
    assert (chances > 0.5).tolist() == [False, True, True, False]
