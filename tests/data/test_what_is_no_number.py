"""Dates, times, masked values and the like are not numbers, and a constant is no deviation."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data.preprocessor.dense import DenseFit
from keras_dlrm.support.values import real_array

pytestmark = pytest.mark.neutral

DAY, DATE = datetime.timedelta(days=1), datetime.date(2026, 1, 1)
MOMENT = datetime.datetime(2026, 1, 1, 12)
NO_NUMBERS = {
    "timedelta64": np.array([DAY, DAY], "m8[s]"),
    "timedelta64 alongside an integer": [np.timedelta64(1, "D"), 2],
    "NaT alongside a difference": np.array(["NaT", 1], "m8[s]"),
    "datetime64": np.array([DATE, DATE], "M8[D]"),
    "pandas differences": pd.Series([DAY, None]),
    "pandas moments": pd.Series([MOMENT, None]),
    "pandas moments of a zone": pd.Series(pd.to_datetime([MOMENT] * 2, utc=True)),
    "pandas periods": pd.Series(pd.period_range("2026", periods=2, freq="D")),
    "pandas category of differences": pd.Series([DAY, DAY * 2]).astype("category"),
    "Polars durations": pl.Series([DAY, None]),
    "Polars dates": pl.Series([DATE, None]),
    "Polars moments": pl.Series([MOMENT, None]),
    "Polars times": pl.Series([datetime.time(1), None]),
    "Python differences": [DAY, 1.0],
    "Python dates": [DATE, 1.0],
    "Python moments": np.array([MOMENT, None], object),
    "complex": np.array([1j, 0]),
    "complex in a list": [1j, 1.0],
    "objects": [{}, 1.0],
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_is_no_number_is_refused_by_its_columns_name(name):
    values, one = NO_NUMBERS[name], [0, 1]
    given = kd.Schema(dense=["x"], categorical=[kd.Categorical("u", 10)])
    for columns in ({"x": values, "u": one}, {"x": one, "u": values}):
        column = "'u'" if columns["x"] is one else "'x'"
        for take in (given.pack, kd.data.Preprocessor.identity(given).transform):
            with pytest.raises(TypeError, match=column):
                take(columns)
    fitted = kd.Schema(dense=[kd.Dense("x", "standardize")], categorical=[kd.Categorical("u")])
    for columns in ({"x": values, "u": one}, {"x": one, "u": values}):
        with pytest.raises(TypeError, match="'u'" if columns["x"] is one else "'x'"):
            kd.data.Preprocessor.fit(fitted, columns)
    with pytest.raises(TypeError, match="^labels "):
        real_array("labels", values)


@pytest.mark.parametrize("values", [["1", "2"], np.array(["1", "2"]), pl.Series(["1", "2"]), pd.Series(["1", None])])
def test_texts_are_no_numbers_to_pack(values):
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("u", 10)])
    with pytest.raises(TypeError, match="'x'.* must be numeric"):
        schema.pack({"x": values, "u": [0, 1]})
    with pytest.raises(TypeError, match="'u'"):
        schema.pack({"x": [0, 1], "u": values})
    weights = kd.Schema(categorical=[kd.Categorical("u", 10)], weighted=True)
    for factors in (values, np.array([1, 2], "m8[s]")):
        with pytest.raises((TypeError, ValueError), match="weights of 'u'"):
            weights.pack({"u": [0, 1]}, weights={"u": factors})


@pytest.mark.parametrize("key, dtype", [("dense", "m8[s]"), ("sparse", "m8[s]"), ("dense", "M8[s]"), ("dense", complex)])
def test_a_batch_of_what_is_no_number_is_refused(key, dtype):
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("u", 10)])
    batch = {"dense": np.zeros((2, 1), np.float32), "sparse": np.zeros((2, 1), np.int64)}
    with pytest.raises(TypeError, match=key):
        schema.validate({**batch, key: batch[key].astype(np.int64).astype(dtype)})
    with pytest.raises(ValueError, match=f"{key}.* has masked values"):
        schema.validate({**batch, key: np.ma.array(batch[key], mask=[[True], [False]])})


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=6))
def test_a_mask_counts_as_missing(pairs):
    numbers, mask = np.array([n for n, _ in pairs]), [hidden for _, hidden in pairs]
    masked, rows = np.ma.array(numbers, mask=mask), np.zeros(len(pairs), int)
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("u", 10), kd.Categorical("m", 10, hotness=2)], weighted=True)
    plain = {"x": numbers, "u": rows, "m": rows}
    pairs_of = np.ma.array(np.stack([rows, numbers], 1), mask=[[False, hidden] for hidden in mask])
    for name, values in {"x": masked, "u": masked, "m": pairs_of, "m ": list(pairs_of), "u ": [*masked], "x ": [*masked]}.items():
        if any(mask):
            with pytest.raises((TypeError, ValueError), match=f"'{name.strip()}'.*(missing|masked)"):
                schema.pack({**plain, name.strip(): values})
        else:
            schema.pack({**plain, name.strip(): values})
    if any(mask):
        with pytest.raises(ValueError, match="weights of 'u': value nan"):
            schema.pack(plain, weights={"u": masked})
    unweighted = kd.Schema(dense=schema.dense, categorical=schema.categorical)
    batch = kd.data.Preprocessor.identity(unweighted).transform({"x": masked, "u": masked, "m": pairs_of})
    ids = np.where(mask, -1, numbers)
    np.testing.assert_array_equal(batch["sparse"], np.stack([ids, rows, ids], 1))
    np.testing.assert_array_equal(batch["dense"][:, 0], np.where(mask, 0, numbers))


def standardized(parts, asked):
    schema = kd.Schema(dense=[kd.Dense("x", "standardize")])
    fitted = kd.data.Preprocessor.fit(schema, [{"x": np.asarray(part, np.float64)} for part in parts])
    return fitted.transform({"x": np.asarray(asked, np.float64)})["dense"][:, 0], fitted.dense_state["x"]


@given(
    st.floats(-1e30, 1e30, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-30),
    st.lists(st.integers(1, 900), min_size=1, max_size=4),
)
def test_a_constant_column_is_0_and_another_value_is_not_blown_up(value, sizes):
    got, state = standardized([np.full(size, value) for size in sizes], [value, value * 1.01])
    assert state == {"mean": value, "deviation": 1.0}
    assert got[0] == 0 and abs(got[1]) <= abs(value) * 0.0101


def test_a_constant_up_to_rounding_is_a_constant():
    values = [0.1 + 0.2, 0.3, sum([0.1] * 3), 0.3]
    got, state = standardized([values, values], [0.3, 0.31])
    assert state["deviation"] == 1.0 and abs(got[0]) < 1e-6 and abs(got[1]) < 0.1


@pytest.mark.parametrize("offset, scale", [(1.7e9, 1e-3), (1.7e9, 30.0), (-5e15, 8.0), (0.0, 1e-20), (1e6, 1e-6)])
def test_a_small_deviation_beside_a_large_offset_is_kept(offset, scale):
    # The first part is far off the others, and parts are of different sizes.
    x = offset + scale * np.random.default_rng(0).standard_normal(5000)
    fit = DenseFit(kd.Dense("x", "standardize"))
    for part in np.split(x, [1, 7, 1000, 1001]):
        fit.update(part)
    exact = x.astype(np.longdouble)
    assert fit.state()["deviation"] == pytest.approx(float(exact.std()), rel=1e-6)
    assert abs(fit.state()["mean"] - float(exact.mean())) <= 1e-3 * scale + 1e-15 * abs(offset)


def test_a_value_beyond_float32_is_refused_when_a_deviation_is_fitted():
    with pytest.raises(ValueError, match="row 1, column 'x': value 1e[+]?200 is outside the range of float32"):
        standardized([[0.0, 1e200]], [0.0])


class Arrow:
    """A table that only Arrow's interface gives away."""

    def __init__(self, frame):
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema=None):
        return self._frame.__arrow_c_stream__(requested_schema)


def test_tables_of_any_kind_are_fitted_grown_and_transformed_alike():
    schema = kd.Schema(dense=[kd.Dense("x", "standardize")], categorical=[kd.Categorical("u"), kd.Categorical("f")])
    monday = pl.DataFrame({"x": [1.0, 3.0], "u": ["a", "b"], "f": [True, None]})
    tuesday = pl.DataFrame({"x": [2.0], "u": ["c"], "f": [False]})
    pandas = {"x": pd.Series([1.0, 3.0], index=[5, 5]), "u": ["a", "b"], "f": pd.array([True, None], dtype="boolean")}
    kinds = {
        "pandas": (pd.DataFrame(pandas, index=[5, 5]), pd.DataFrame(tuesday.to_dict(as_series=False))),
        "lazy": (monday.lazy(), tuesday.lazy()),
        "mapping": (monday.to_dict(as_series=False), {"x": np.array([2.0]), "u": ("c",), "f": [False]}),
        "arrow": (Arrow(monday), Arrow(tuesday)),
    }
    fitted = kd.data.Preprocessor.fit(schema, monday)
    grown = fitted.grow(tuesday)
    asked = fitted.transform(monday), grown.transform(tuesday)
    assert asked[1]["sparse"].tolist() == [[3, 2]]
    for first, second in kinds.values():
        for wrap in (lambda table: table, lambda table: [table], lambda table: iter([table])):
            again = kd.data.Preprocessor.fit(schema, wrap(first))
            assert again.schema == fitted.schema and again.dense_state == fitted.dense_state
            after = again.grow(wrap(second))
            assert after.schema == grown.schema
        for batch, table, by in ((asked[0], first, again), (asked[1], second, after)):
            for key, values in by.transform(table).items():
                np.testing.assert_array_equal(values, batch[key])
    for wrong in ("rows.parquet", [1.0], 3):
        with pytest.raises(TypeError, match="expected a DataFrame or a mapping of named columns, not (str|float|int)"):
            kd.data.Preprocessor.fit(schema, wrong)


def test_booleans_are_1_and_0_as_dense_values_and_labels_in_text(tmp_path):
    schema = kd.Schema(dense=["x"], label="y")
    (tmp_path / "t.csv").write_text("x,y\nTrue,FALSE\nfalse,true\n2.5,1\nTRUE,False\n")
    pl.DataFrame({"x": [True, False], "y": [False, True]}).write_parquet(tmp_path / "t.parquet")
    for file, x, y in (("t.csv", [1, 0, 2.5, 1], [0, 1, 1, 0]), ("t.parquet", [1, 0], [0, 1])):
        data = kd.data.tables.preprocess(schema, tmp_path / file, output=tmp_path / f"{file}.out")
        batch, label = next(data.split("train").batches(4))
        assert batch["dense"].ravel().tolist() == x and label.tolist() == y
