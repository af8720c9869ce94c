"""The preprocessor inside a graph gives the ids and values that it gives on the host."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.vocabulary import HEX, Keys
from keras_dlrm.export.signatures import raw_columns
from keras_dlrm.schema.columns import Dense

tf = pytest.importorskip("tensorflow")
from keras_dlrm.export.saved_model.columns import RawColumns, hashed_ids  # noqa: E402

pytestmark = [pytest.mark.neutral, pytest.mark.usefixtures("quick_exports")]

TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=6),
    st.sampled_from(["", "-1", "-1.0", "3", "3.0", "+3.00", "03", "٣.0", "a\nb", "a\\nb", "\\", "\r", " 3", "1e3", "x\x00y"]),
    st.integers(-(2**70), 2**70).map(str),
)
SETTINGS = settings(max_examples=60, deadline=None)


def in_graph(preprocessor, folder, columns):
    module = RawColumns(preprocessor, raw_columns(preprocessor), folder)
    return {k: v.numpy() for k, v in module.pack({k: tf.constant(v) for k, v in columns.items()}).items()}


def padded(values):
    return [v or "" for v in values]


@pytest.mark.slow
@SETTINGS
@given(st.lists(TEXTS, max_size=8), st.lists(TEXTS, min_size=1, max_size=12), st.sampled_from([None, 0, 2]), st.integers(1, 3))
def test_texts_get_the_ids_of_the_host(tmp_path_factory, train, asked, oov, oov_rows):
    column = kd.Categorical("c", oov=oov, oov_rows=1 if oov is None else oov_rows)
    preprocessor = Preprocessor.fit(kd.Schema(categorical=[column]), pl.DataFrame({"c": train}, schema={"c": pl.String}))
    asked = [*asked, *train]
    expected = preprocessor.transform(pl.DataFrame({"c": asked}))["sparse"]
    got = in_graph(preprocessor, tmp_path_factory.mktemp("v"), {"c": np.array([a.encode() for a in asked], object)})
    assert got["sparse"].tolist() == expected.tolist()


@SETTINGS
@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=8),
    st.lists(st.integers(0, 2**64 - 1), min_size=1),
    st.sampled_from([None, 10_000_000, 5]),
)
def test_hexadecimal_digits_get_the_ids_of_the_host(tmp_path_factory, train, asked, modulo):
    schema = kd.Schema(categorical=[kd.Categorical("c", oov_rows=2)])
    texts = [f"{n:x}" for n in train]
    preprocessor = Preprocessor.fit(schema, pl.DataFrame({"c": texts}, schema={"c": pl.String}), {"c": Keys(HEX, modulo)})
    asked = [*(f"{n:08X}" for n in asked), *texts, ""]
    expected = preprocessor.transform(pl.DataFrame({"c": asked}))["sparse"]
    got = in_graph(preprocessor, tmp_path_factory.mktemp("v"), {"c": np.array([a.encode() for a in asked], object)})
    assert got["sparse"].tolist() == expected.tolist()


def test_what_is_no_hexadecimal_number_is_an_unseen_value(tmp_path):
    preprocessor = Preprocessor.fit(
        kd.Schema(categorical=[kd.Categorical("c", oov=1)]), pl.DataFrame({"c": ["a", "b", "c"]}), {"c": Keys(HEX, None)}
    )
    got = in_graph(preprocessor, tmp_path, {"c": np.array([b"a", b"xyz", b"-1", b"+b", b"1" * 17, b"0" * 20 + b"b"], object)})
    assert got["sparse"].ravel().tolist() == [0, 1, 1, 1, 1, 2]


@SETTINGS
@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_hashed_texts_get_the_ids_of_the_host(asked):
    schema = kd.Schema(categorical=[kd.Categorical("c", 1000, hashed=True)])
    kept = [a for a in asked if not (a.lstrip("-+").isdigit() and a.startswith("-") and int(a) < -1)]
    if not kept:
        return
    try:
        expected = Preprocessor.identity(schema).transform(pl.DataFrame({"c": kept}))["sparse"].ravel()
    except ValueError:  # a negative id, which the host refuses
        return
    from keras_dlrm.schema.hashing import fold

    assert fold(hashed_ids(tf.constant([a.encode() for a in kept])).numpy()).tolist() == expected.tolist()


@SETTINGS
@given(
    st.sampled_from(["none", "log1p", "standardize", "log1p_standardize", "quantile", "distinct_quantile", "log_above_minimum"]),
    st.lists(st.floats(-1e9, 1e9, width=32), min_size=1, max_size=20),
    st.lists(st.one_of(st.none(), st.just(np.inf), st.just(-np.inf), st.floats(-1e30, 1e30)), min_size=1, max_size=20),
)
def test_dense_values_are_those_of_the_host(tmp_path_factory, transform, train, asked):
    schema = kd.Schema(dense=[Dense("d", transform, missing=7.0)])
    preprocessor = Preprocessor.fit(schema, pl.DataFrame({"d": train}, schema={"d": pl.Float64}))
    frame = pl.DataFrame({"d": [*asked, *train]}, schema={"d": pl.Float64})
    try:
        expected = preprocessor.transform(frame)["dense"]
    except ValueError:  # beyond float32
        return
    values = frame["d"].fill_null(float("nan")).to_numpy()
    got = in_graph(preprocessor, tmp_path_factory.mktemp("v"), {"d": values})["dense"]
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)


def test_dense_values_that_the_host_refuses_become_nan(tmp_path):
    preprocessor = Preprocessor.identity(kd.Schema(dense=["d"]))
    got = in_graph(preprocessor, tmp_path, {"d": np.array([1e300, -1e300, 1.0])})["dense"]
    assert np.isnan(got.ravel()).tolist() == [True, True, False]


def test_a_grown_vocabulary_keeps_its_ids(tmp_path):
    schema = kd.Schema(categorical=[kd.Categorical("c", oov=5, oov_rows=2)])
    first = Preprocessor.fit(schema, pl.DataFrame({"c": ["a", "b"]}))
    grown = first.grow(pl.DataFrame({"c": ["x", "y", "a"]}))
    asked = ["a", "b", "x", "y", "z", "zz", ""]
    got = in_graph(grown, tmp_path, {"c": np.array([a.encode() for a in asked], object)})
    assert got["sparse"].tolist() == grown.transform({"c": asked})["sparse"].tolist()


MOMENTS = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1))
TIMES = st.one_of(
    MOMENTS.map(dt.datetime.isoformat), MOMENTS.map(str), MOMENTS.map(lambda moment: str(moment.date())),
    MOMENTS.map(lambda moment: f"{moment:%Y-%m-%dT%H:%M}+05:30"), MOMENTS.map(lambda moment: f"{moment:%Y-%m-%d %H:%M:%S}.25Z"),
    st.integers(-(10**18), 10**18).map(str), st.floats(-1e18, 1e18).map(str), st.sampled_from(["", "2024-02-29", "1e9", "-0"]),
)  # fmt: skip


@SETTINGS
@given(st.lists(TIMES, min_size=1, max_size=20))
def test_parts_of_times_are_those_of_the_host(tmp_path_factory, asked):
    made = [kd.Categorical("hour", of="at", part="hour"), kd.Categorical("weekday", of="at", part="weekday")]
    preprocessor = Preprocessor(kd.Schema([kd.Dense("days", "log1p", of="at", part="days")], made))
    expected = preprocessor.transform({"at": asked})
    got = in_graph(preprocessor, tmp_path_factory.mktemp("v"), {"at": np.array([a.encode() for a in asked], object)})
    assert got["sparse"].tolist() == expected["sparse"].tolist()
    np.testing.assert_allclose(got["dense"], expected["dense"], rtol=1e-6)
    assert [column.name for column in raw_columns(preprocessor)] == ["at"]


# The host refuses negative ids.
HASHABLE = st.one_of(st.text("ab7 .é", max_size=6), st.integers(0, 2**70).map(str), st.sampled_from(["", "-1", "3.0", "+3", "03"]))


@pytest.mark.slow
@SETTINGS
@given(
    st.lists(TEXTS, max_size=6), st.lists(st.tuples(TEXTS, HASHABLE, st.integers(-1, 8), TIMES), min_size=1, max_size=12),
    st.sampled_from([None, 0]), st.integers(1, 2**31 - 1),
)  # fmt: skip
def test_crosses_are_those_of_the_host(tmp_path_factory, train, asked, oov, buckets):
    schema = kd.Schema(categorical=[
        kd.Crossed("all", ["text", "hour", "hash", "id"], buckets), kd.Categorical("text", oov=oov),
        kd.Categorical("hash", 50, hashed=True), kd.Categorical("id", 9, oov=oov),
        kd.Categorical("hour", of="at", part="hour"), kd.Crossed("two", ["hash", "id"], 1000),
    ])  # fmt: skip
    preprocessor = Preprocessor.fit(schema, pl.DataFrame({"text": train}, schema={"text": pl.String}))
    columns = dict(zip(("text", "hash", "id", "at"), map(list, zip(*asked, strict=True)), strict=True))
    expected = preprocessor.transform(columns)["sparse"]
    request = {n: np.array(v, np.int64) if n == "id" else np.array([a.encode() for a in v], object) for n, v in columns.items()}
    got = in_graph(preprocessor, tmp_path_factory.mktemp("v"), request)["sparse"]
    assert got[:, [0, 1, 3, 4, 5]].tolist() == expected[:, [0, 1, 3, 4, 5]].tolist()
    assert [column.name for column in raw_columns(preprocessor)] == ["text", "hash", "id", "at"]


@SETTINGS
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 9), st.booleans(), st.integers(0, 9))
def test_elements_and_codes_of_content_vectors_are_those_of_the_host(tmp_path_factory, width, levels, codes, prefix, seed):
    column = kd.SemanticIds("codes", of="v", width=width, levels=levels, codes=codes, prefix=prefix, rows=max(40, levels * codes))
    random = np.random.default_rng(seed)
    preprocessor = Preprocessor.fit(kd.Schema(kd.ContentVector("v", width), [column]), {"v": random.normal(size=(30, width))})
    asked = random.normal(size=(20, width)) * 10.0 ** random.integers(-3, 4, (20, 1))
    asked[:2] = np.nan
    asked[2, 0] = np.nan
    expected = preprocessor.transform({"v": asked})
    got = in_graph(preprocessor, tmp_path_factory.mktemp("v"), {"v": asked})
    assert got["sparse"].tolist() == expected["sparse"].tolist()
    np.testing.assert_allclose(got["dense"], expected["dense"], rtol=1e-6)
    assert [(column.name, column.dtype, column.width) for column in raw_columns(preprocessor)] == [("v", "float64", width)]


def test_a_cross_of_an_id_out_of_range_is_that_of_the_oov_row(tmp_path):
    schema = kd.Schema(categorical=[
        kd.Categorical("a", 9, oov=4), kd.Categorical("b", 9, oov=None), kd.Crossed("c", ["a", "b"], 1000),
    ])  # fmt: skip
    asked = {"a": np.array([9, 4, -2, 2**40, 1]), "b": np.array([3, 3, 3, 3, 9])}
    got = in_graph(Preprocessor.identity(schema), tmp_path, asked)["sparse"][:, 2]
    assert got.tolist() == [got[1]] * 4 + [-1] and got[1] == schema.pack({"a": [4], "b": [3]})["sparse"][0, 2]


def test_times_that_the_host_refuses_are_missing(tmp_path):
    preprocessor = Preprocessor(kd.Schema(categorical=[kd.Categorical("hour", of="at", part="hour")]))
    asked = ["soon", "2024-13-01", "2024-02-30", "2023-02-29", "2024-01-01 24:00", "nan", "2024-01-31T12:30"]
    for text in asked[:-1]:
        with pytest.raises(ValueError, match="column 'hour': value .* must be a time, such as 2024-01-31"):
            preprocessor.transform({"at": [text]})
    got = in_graph(preprocessor, tmp_path, {"at": np.array([a.encode() for a in asked], object)})
    assert got["sparse"].ravel().tolist() == [-1] * 6 + [12]
