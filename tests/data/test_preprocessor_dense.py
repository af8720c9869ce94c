"""Raw dense columns → model inputs: transforms, quantiles, and values that are missing, infinite or no numbers."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm.data.preprocessor import dense
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.schema.columns import DENSE_TRANSFORMS
from keras_dlrm.schema.schema import Dense, Schema

pytestmark = pytest.mark.neutral


def fit_dense(transform, values, **fields):
    return Preprocessor.fit(Schema(dense=[Dense("x", transform, **fields)]), [pl.DataFrame({"x": v}) for v in values])


def test_dense_transforms_give_the_documented_values():
    x = np.array([0.0, 1.0, 3.0, -2.0, 10.0])
    logs = np.log1p(np.maximum(x, 0))
    for transform, expected in [
        ("none", x),
        ("log1p", logs),
        ("standardize", (x - x.mean()) / x.std()),
        ("log1p_standardize", (logs - logs.mean()) / logs.std()),
    ]:
        transformed = fit_dense(transform, [x[:2], x[2:]]).transform({"x": x})["dense"][:, 0]
        np.testing.assert_allclose(transformed, expected, rtol=1e-5, atol=1e-6)


def test_quantile_transform_spreads_any_distribution_over_minus_one_to_one():
    x = np.random.default_rng(0).lognormal(sigma=3.0, size=5000)
    transformed = fit_dense("quantile", [x[:1000], x[1000:]]).transform({"x": x})["dense"][:, 0]
    ranks = 2.0 * np.argsort(np.argsort(x)) / len(x) - 1.0
    assert np.abs(transformed - ranks).max() < 0.01
    constant = fit_dense("quantile", [[2.0, 2.0]])
    assert constant.transform({"x": [1.0, 2.0, 3.0]})["dense"][:, 0].tolist() == [-1.0, 0.0, 1.0]


def test_distinct_quantiles_give_no_more_room_to_a_value_that_many_rows_have():
    x = np.concatenate([np.zeros(9000), np.random.default_rng(0).uniform(1, 2, 1000)])
    transformed = fit_dense("distinct_quantile", [x]).transform({"x": [-1.0, 0.0, 1.0, 1.5, 2.0, 3.0, None]})["dense"][:, 0]
    assert transformed[[0, 1, 4, 5, 6]].tolist() == [-1.0, -1.0, 1.0, 1.0, 0.0]
    assert -1 < transformed[2] < -0.9 and abs(transformed[3]) < 0.1
    constant = fit_dense("distinct_quantile", [[2.0, 2.0]])
    assert constant.transform({"x": [1.0, 2.0, 3.0]})["dense"][:, 0].tolist() == [0.0, 0.0, 0.0]


def test_quantile_sample_is_bounded_and_does_not_depend_on_the_batches(monkeypatch):
    monkeypatch.setattr(dense, "SAMPLE", 50)
    x = np.random.default_rng(0).random(1000)
    one, many = (dense.DenseFit(Dense("x", "quantile")) for _ in range(2))
    one.update(x)
    for i in range(0, 1000, 7):
        many.update(x[i : i + 7])
    assert len(one._sample) <= 50 and one.state() == many.state()


@pytest.mark.parametrize("transform", DENSE_TRANSFORMS)
@given(values=st.lists(st.integers(0, 10_000), min_size=2, max_size=40, unique=True))
def test_raw_values_are_read_off_model_inputs(transform, values):
    raw = np.array(values, float)
    preprocessor = fit_dense(transform, [raw])
    inputs = preprocessor.transform({"x": raw})["dense"][:, 0]
    undone = dense.undo(preprocessor.schema.dense[0], preprocessor.dense_state.get("x", {}), inputs)
    np.testing.assert_allclose(undone, raw, rtol=0.01, atol=0.01 * raw.max() if transform == "quantile" else 0.01)


@pytest.mark.parametrize("transform", ["none", "log1p", "standardize", "log1p_standardize", "quantile", "distinct_quantile"])
def test_missing_dense_values_become_the_given_one_after_the_transform(transform):
    preprocessor = fit_dense(transform, [[1.0, None, 5.0]], missing=-3.5)
    for values in ([None, 2.0], [float("nan"), 2.0], ["", "2"]):
        transformed = preprocessor.transform({"x": values})["dense"][:, 0]
        assert transformed[0] == -3.5 and transformed[1] != -3.5


def test_constant_or_empty_dense_column_does_not_divide_by_zero():
    assert fit_dense("standardize", [[4.0, 4.0]]).transform({"x": [4.0]})["dense"].tolist() == [[0.0]]
    empty = fit_dense("quantile", [pl.Series([None], dtype=pl.Float64)])
    assert np.isfinite(empty.transform({"x": [1.0]})["dense"]).all()


def test_bad_dense_values_are_named():
    preprocessor = fit_dense("none", [[0.0]])
    for values, message in [
        (["1", "abc"], "row 1, column 'x': value 'abc' must be a number"),
        ([1.0, 1e300], "row 1, column 'x': value 1e.300 is outside the range of float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            preprocessor.transform({"x": values})
    with pytest.raises(ValueError, match=r"row 2, column 'x': value 1e\+39 is outside the range of float32"):
        fit_dense("log1p_standardize", [[1.0, 2.0, 1e39]])
    with pytest.raises(TypeError, match="holds numbers"):
        preprocessor.transform({"x": [[1.0], [2.0]]})


@pytest.mark.parametrize("transform", ["none", "log1p", "standardize", "log1p_standardize", "quantile", "distinct_quantile"])
def test_infinite_dense_values_are_missing_ones(transform):
    schema = Schema(dense=[Dense("x", transform, missing=-3.0)])
    fitted = Preprocessor.fit(schema, {"x": [1.0, np.inf, 4.0, -np.inf, 2.0]})
    assert fitted.dense_state == Preprocessor.fit(schema, {"x": [1.0, None, 4.0, None, 2.0]}).dense_state
    values = [np.inf, 2.0, -np.inf]
    out = fitted.transform({"x": values})["dense"]
    assert out.tolist() == fitted.transform({"x": ["inf", "2", "-Infinity"]})["dense"].tolist()
    assert out.ravel().tolist() == [-3.0, fitted.transform({"x": [2.0]})["dense"][0, 0], -3.0]
