"""Packing and validation of batches by a schema: lists, arrays, frames, weights, and the errors of bad columns."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers.schemas import SCHEMA
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral
COLUMNS = {"price": [0.5, 1.5], "age": [1, 2], "C1": [3, 9], "tags": [[1, 2], []], "last": [4, -1]}


def with_column(name, values):
    return {**COLUMNS, name: values}


# -- packing --


def test_pack_pads_on_the_right_with_minus_one():
    batch = SCHEMA.pack(COLUMNS)
    assert batch["dense"].dtype == np.float32 and batch["sparse"].dtype == np.int64
    np.testing.assert_array_equal(batch["dense"], [[0.5, 1], [1.5, 2]])
    np.testing.assert_array_equal(batch["sparse"], [[3, 1, 2, -1, 4], [9, -1, -1, -1, -1]])
    SCHEMA.validate(batch)


def test_pack_leaves_the_label_out():
    assert set(SCHEMA.pack({**COLUMNS, "click": [0, 1]})) == {"dense", "sparse"}


@pytest.mark.parametrize(
    "tags",
    [
        [[1, 2], []],
        [(1, 2), ()],
        [np.array([1, 2]), np.array([], int)],
        np.array([[1, 2, -1], [-1, -1, -1]]),
        np.array([[1, 2], [-1, -1]], np.int8),
        pd.Series([[1, 2], []]).to_numpy(),
        pd.Series([[1, 2], []]),
        pl.Series([[1, 2], []]),
        pl.Series([[1, 2], [-1, -1]], dtype=pl.Array(pl.Int64, 2)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_pack_takes_lists_arrays_and_series_of_ids(tags):
    np.testing.assert_array_equal(SCHEMA.pack(with_column("tags", tags))["sparse"][:, 1:4], [[1, 2, -1], [-1, -1, -1]])


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_pack_takes_data_frames_with_list_columns(frame):
    batch = SCHEMA.pack(frame({**COLUMNS, "click": [0, 1]}))
    expected = SCHEMA.pack(COLUMNS)
    for key in expected:
        np.testing.assert_array_equal(batch[key], expected[key])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int32, np.uint64])
def test_pack_takes_every_integer_dtype(dtype):
    assert SCHEMA.pack(with_column("C1", np.array([3, 9], dtype)))["sparse"][:, 0].tolist() == [3, 9]


@pytest.mark.parametrize(
    "empty", [list, lambda: np.zeros(0, int), lambda: pd.Series([], dtype=int), lambda: pl.Series([], dtype=pl.Int64)]
)
def test_an_empty_batch_has_full_width(empty):
    batch = SCHEMA.pack({name: empty() for name in COLUMNS})
    assert batch["dense"].shape == (0, 2) and batch["sparse"].shape == (0, 5)
    SCHEMA.validate(batch)


def test_keys_without_columns_are_absent():
    assert set(Schema(dense=["a"]).pack({"a": [1.0]})) == {"dense"}
    assert set(Schema(categorical=[Categorical("a", 3)]).pack({"a": [1]})) == {"sparse"}


@given(st.data())
def test_packing_random_ragged_lists_can_be_undone(data):
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 4)), min_size=1, max_size=4))
    rows = data.draw(st.integers(0, 5))
    schema = Schema(categorical=[Categorical(f"c{i}", v, hotness=h) for i, (v, h) in enumerate(sizes)])
    columns = {
        f"c{i}": [data.draw(st.lists(st.integers(0, v - 1), max_size=h)) for _ in range(rows)]
        for i, (v, h) in enumerate(sizes)
    }
    sparse = schema.pack(columns)["sparse"]
    assert sparse.shape == (rows, schema.width)
    for column, start in zip(schema.categorical, schema.offsets, strict=True):
        got = [[int(i) for i in row if i != -1] for row in sparse[:, start : start + column.hotness]]
        assert got == columns[column.name]


# -- weights --

WEIGHTED = Schema(categorical=[Categorical("a", 5), Categorical("b", 5, hotness=2)], weighted=True)
WEIGHTED_COLUMNS = {"a": [1, -1], "b": [[1, 2], [3]]}


def test_weights_default_to_one_and_to_zero_on_padding():
    batch = WEIGHTED.pack(WEIGHTED_COLUMNS, weights={"b": [[0.5, 2.0], [3.0]]})
    assert batch["weights"].dtype == np.float32
    np.testing.assert_array_equal(batch["weights"], [[1, 0.5, 2], [0, 3, 0]])
    np.testing.assert_array_equal(WEIGHTED.pack(WEIGHTED_COLUMNS)["weights"], [[1, 1, 1], [0, 1, 0]])
    WEIGHTED.validate(batch)


@pytest.mark.parametrize(
    "weights, error, words",
    [
        ({"zzz": [1.0, 1.0]}, KeyError, ["'zzz'", "'a'"]),
        ({"b": [[1.0, 1.0]]}, ValueError, ["'b'", "1 rows", "2"]),
        ({"b": [[1.0, np.nan], [1.0]]}, ValueError, ["'b'", "nan", "row 0"]),
        ({"b": [[1.0, np.inf], [1.0]]}, ValueError, ["'b'", "inf", "row 0"]),
        ({"b": [[1.0, 1.0, 1.0], [1.0]]}, ValueError, ["'b'", "3", "hotness=2"]),
        ({"b": [["x"], ["y"]]}, TypeError, ["'b'", "numeric"]),
        ({"b": [[1.0], [1.0]]}, ValueError, ["'b'", "row 0", "id 2", "no weight"]),
        ({"b": [[1.0, 1.0], [1.0, 4.0]]}, ValueError, ["'b'", "row 1", "weight 4", "no id"]),
        ({"b": [[1.0, 1.0], [1e300]]}, ValueError, ["'b'", "row 1", "1e+300", "float32"]),
    ],
)
def test_bad_weights_are_refused(weights, error, words):
    with pytest.raises(error) as caught:
        WEIGHTED.pack(WEIGHTED_COLUMNS, weights=weights)
    for word in words:
        assert word in str(caught.value)


def test_weights_of_padding_may_be_anything_and_those_beyond_the_ids_zero():
    ids = {"a": [1, -1], "b": np.array([[1, 2], [3, -1]])}
    weights = np.array([[0.5, 2.0], [3.0, 4.0]])
    expected = WEIGHTED.pack(ids, weights={"b": weights})["weights"]
    np.testing.assert_array_equal(expected, [[1, 0.5, 2], [0, 3, 0]])
    weights[1, 1] = 0
    np.testing.assert_array_equal(WEIGHTED.pack(WEIGHTED_COLUMNS, weights={"b": weights})["weights"], expected)


def test_weights_for_an_unweighted_schema_are_refused():
    with pytest.raises(ValueError, match="weighted=True"):
        SCHEMA.pack(COLUMNS, weights={"C1": [1.0, 1.0]})


# -- bad input --


@pytest.mark.parametrize(
    "columns, error, words",
    [
        ({k: v for k, v in COLUMNS.items() if k != "C1"}, KeyError, ["'C1'", "missing"]),
        (with_column("C7", [1, 2]), KeyError, ["unknown", "'C7'", "'C1'", "Drop it"]),
        (with_column("C1", [3, 10]), ValueError, ["'C1'", "id 10", "row 1", "0 … 9", "OOV row 0"]),
        (with_column("tags", [[1], [4, 5]]), ValueError, ["'tags'", "id 5", "row 1", "0 … 4", "OOV row 2"]),
        (with_column("C1", [-2, 3]), ValueError, ["'C1'", "id -2", "row 0", "-1 for padding"]),
        (with_column("C1", [2**40, 3]), ValueError, ["'C1'", f"id {2**40}"]),
        (with_column("C1", np.array([2**63, 3], np.uint64)), ValueError, ["'C1'", "does not fit"]),
        (with_column("C1", [1.0, 2.0]), TypeError, ["'C1'", "float64", "integers"]),
        (with_column("C1", ["a", "b"]), TypeError, ["'C1'", "integers"]),
        (with_column("C1", [True, False]), TypeError, ["'C1'", "bool"]),
        (with_column("C1", [None, 3]), TypeError, ["'C1'", "None", "row 0", "-1"]),
        (with_column("C1", pl.Series([3, None])), TypeError, ["'C1'", "missing", "row 1", "-1"]),
        (with_column("C1", pd.Series([3, None], dtype="Int64")), TypeError, ["'C1'", "missing", "row 1", "-1"]),
        (with_column("C1", pd.Series([3, None])), TypeError, ["'C1'", "missing", "row 1", "-1"]),
        (with_column("tags", [[1.5], [2]]), TypeError, ["'tags'", "float64"]),
        (with_column("tags", [[2], [1, None]]), TypeError, ["'tags'", "missing", "row 1"]),
        (with_column("tags", pl.Series([[2], [1, None]])), TypeError, ["'tags'", "missing", "row 1"]),
        (with_column("tags", [[1, 2, 3, 4], [2]]), ValueError, ["'tags'", "4 ids", "hotness=3"]),
        (with_column("tags", [[[1], [2]], [3]]), ValueError, ["'tags'", "row 0"]),
        (with_column("tags", np.zeros((2, 4), int)), ValueError, ["'tags'", "4 ids", "hotness=3"]),
        (with_column("C1", np.zeros((2, 1, 1), int)), ValueError, ["'C1'", "(2, 1, 1)"]),
        (with_column("C1", [1, 2, 3]), ValueError, ["'C1'", "3 rows", "'price'", "2"]),
        (with_column("price", [1.0, np.nan]), ValueError, ["'price'", "nan", "row 1", "finite"]),
        (with_column("price", [np.inf, 1.0]), ValueError, ["'price'", "inf", "row 0"]),
        (with_column("price", [1.0, 1e39]), ValueError, ["'price'", "1e+39", "row 1", "float32"]),
        (with_column("price", [None, 1.0]), ValueError, ["'price'", "None"]),
        (with_column("price", ["1", "2"]), TypeError, ["'price'", "numeric"]),
        (with_column("price", [1j, 2j]), TypeError, ["'price'", "real"]),
        (with_column("price", np.zeros((2, 2))), ValueError, ["'price'", "(2, 2)"]),
        ([1, 2], TypeError, ["mapping", "list"]),
    ],
)  # fmt: skip
def test_bad_columns_are_refused_by_name_value_and_fix(columns, error, words):
    with pytest.raises(error) as caught:
        SCHEMA.pack(columns)
    for word in words:
        assert word in str(caught.value)


def test_an_id_without_oov_row_is_told_to_become_padding():
    with pytest.raises(ValueError, match=r"padding \(-1\)"):
        Schema(categorical=[Categorical("a", 3, oov=None)]).pack({"a": [3]})


GOOD = {"dense": np.zeros((2, 2), np.float32), "sparse": np.zeros((2, 5), np.int64)}


@pytest.mark.parametrize(
    "batch, error, words",
    [
        ({"dense": GOOD["dense"]}, KeyError, ["'sparse'", "missing"]),
        ({**GOOD, "extra": 1}, KeyError, ["unknown", "'extra'"]),
        ({**GOOD, "dense": np.zeros((2, 3))}, ValueError, ["'dense'", "(2, 3)", "(B, 2)"]),
        ({**GOOD, "sparse": np.zeros(5, int)}, ValueError, ["'sparse'", "(5,)"]),
        ({**GOOD, "dense": np.zeros((3, 2))}, ValueError, ["3", "2", "agree"]),
        ({**GOOD, "dense": np.full((2, 2), "x")}, TypeError, ["'dense'", "float32"]),
        ({**GOOD, "dense": np.full((2, 2), np.nan)}, ValueError, ["'price'", "nan"]),
        ({**GOOD, "sparse": np.zeros((2, 5))}, TypeError, ["'sparse'", "float64", "integers"]),
        ({**GOOD, "sparse": np.full((2, 5), 5)}, ValueError, ["'tags'", "id 5", "0 … 4"]),
        ({**GOOD, "sparse": np.full((2, 5), -2)}, ValueError, ["'C1'", "id -2"]),
    ],
)
def test_validate_refuses_bad_batches(batch, error, words):
    with pytest.raises(error) as caught:
        SCHEMA.validate(batch)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "weights, error",
    [(np.full((1, 3), np.nan), ValueError), (np.full((1, 3), "x"), TypeError), (np.ones((1, 2)), ValueError)],
)
def test_validate_refuses_bad_weights(weights, error):
    with pytest.raises(error, match="weights"):
        WEIGHTED.validate({"sparse": np.zeros((1, 3), int), "weights": weights})


def test_validate_takes_unsigned_ids():
    SCHEMA.validate({**GOOD, "sparse": np.zeros((2, 5), np.uint8)})
    with pytest.raises(ValueError, match="id 18446744073709551615"):
        SCHEMA.validate({**GOOD, "sparse": np.full((2, 5), 2**64 - 1, np.uint64)})
