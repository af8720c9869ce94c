"""Raw columns → packed batches: vocabularies, lists, shared tables, requests, and the same answer after a reload."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.schema.schema import Categorical, Dense, Schema

pytestmark = pytest.mark.neutral


def fit_one(values, *more, **fields):
    """Fit a single categorical column on values, in one frame or several."""
    schema = Schema(categorical=[Categorical("c", **fields)])
    return Preprocessor.fit(schema, [pl.DataFrame({"c": v}, strict=False) for v in (values, *more)])


def ids(preprocessor, values):
    return preprocessor.transform({"c": values})["sparse"].tolist()


def test_ids_follow_first_appearance_and_row_0_is_for_unseen_values():
    preprocessor = fit_one(["b", "a"], ["c", "a"])
    assert preprocessor.schema.table_sizes == {"c": 4}
    assert ids(preprocessor, ["b", "a", "c", "new"]) == [[1], [2], [3], [0]]


def test_oov_row_can_lie_anywhere_or_nowhere():
    assert ids(fit_one(["x", "y", "z"], oov=1), ["x", "y", "z", "?"]) == [[0], [2], [3], [1]]
    last = fit_one(["x"], oov=5)
    assert last.schema.table_sizes == {"c": 6} and ids(last, ["x", "?"]) == [[0], [5]]
    none = fit_one(["x", "y"], oov=None)
    assert none.schema.table_sizes == {"c": 2} and ids(none, ["y", "?"]) == [[1], [-1]]


def test_missing_values_are_padding_and_do_not_count():
    preprocessor = fit_one(["x", None, "", "x"], min_count=1)
    assert preprocessor.schema.table_sizes == {"c": 2}
    assert ids(preprocessor, [None, "", "x"]) == [[-1], [-1], [1]]
    assert ids(preprocessor, [None, None]) == [[-1], [-1]]


def test_column_without_any_value_still_fits():
    assert fit_one([None, None]).schema.table_sizes == {"c": 1}
    assert fit_one([None], oov=None).schema.table_sizes == {"c": 1}


def test_rare_values_share_the_oov_row():
    preprocessor = fit_one(["a", "b", "a"], ["b", "c"], min_count=2)
    assert ids(preprocessor, ["a", "b", "c"]) == [[1], [2], [0]]


def test_a_cap_keeps_the_most_frequent_values_and_ties_go_to_the_earlier_one():
    values = ["a", "b", "b", "c", "c", "d", "d", "d"]
    preprocessor = fit_one(values, max_vocabulary=3)
    assert preprocessor.schema.table_sizes == {"c": 3}
    assert ids(preprocessor, ["d", "b", "c", "a"]) == [[1], [2], [0], [0]]
    with pytest.raises(ValueError, match="oov=4 is outside max_vocabulary=3"):
        fit_one(values, max_vocabulary=3, oov=4)


def test_whole_numbers_are_one_value_however_they_arrive():
    preprocessor = fit_one([3, 10, 3])
    for values in ([3, 10], [3.0, 10.0], ["3", "10"], ["3.0", "10.00"], np.array([3, 10], np.int8), [3.0, None, 10.0]):
        assert [i for (i,) in ids(preprocessor, values) if i != -1] == [1, 2]
    assert ids(preprocessor, [3.5]) == [[0]]
    assert ids(fit_one([1.5, 2.0]), ["1.5", "2", 2]) == [[1], [2], [2]]


def test_mixed_types_compare_as_text():
    preprocessor = fit_one(["a", "3", "True"])
    assert ids(preprocessor, np.array(["a", 3, None], object)) == [[1], [2], [-1]]


def test_shared_table_counts_all_its_columns_in_row_order():
    schema = Schema(
        categorical=[Categorical("last", table="item"), Categorical("seen", table="item", hotness=2), Categorical("u")]
    )
    frame = pl.DataFrame({"last": ["b", "a"], "seen": [["c", "b"], ["d"]], "u": ["x", "y"]})
    for parts in ([frame], [frame[:1], frame[1:]]):
        preprocessor = Preprocessor.fit(schema, parts)
        assert preprocessor.schema.table_sizes == {"item": 5, "u": 3}
        batch = preprocessor.transform({"last": ["c", "?"], "seen": [["a", "d"], ["b"]], "u": ["y", "x"]})
        assert batch["sparse"].tolist() == [[2, 3, 4, 2], [0, 1, -1, 1]]


@pytest.mark.parametrize(
    "values",
    [
        [["a", "b"], [], ["c"]],
        pl.Series([["a", "b"], None, ["c"]]),
        ["a|b", "", "c"],
        ["a|b", None, "c"],
        np.array([["a", "b"], [None, None], ["c", None]], object),
    ],
)
def test_multi_hot_columns_are_lists_arrays_or_separated_strings(values):
    preprocessor = fit_one([["a", "b"], ["c"]], hotness=3)
    assert ids(preprocessor, values) == [[1, 2, -1], [-1, -1, -1], [3, -1, -1]]


def test_missing_value_inside_a_list_keeps_its_place():
    assert ids(fit_one([["a", "b"]], hotness=3), [["a", None, "b"]]) == [[1, -1, 2]]


def test_more_values_than_hotness_is_an_error_that_names_the_row():
    preprocessor = fit_one([["a"]], hotness=2)
    with pytest.raises(ValueError, match="row 1, column 'c': 3 values but hotness=2"):
        ids(preprocessor, [["a"], ["a", "a", "a"]])
    with pytest.raises(ValueError, match="row 0, column 'c': 2 values but hotness=1"):
        ids(fit_one(["a"]), [["a", "b"]])
    assert ids(fit_one(["a|b"]), ["a|b", "a"]) == [[1], [0]]  # one value, not a list


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 4, -1, None], [0, 4, -1, -1]),
        ([0.0, 4.0, float("nan")], [0, 4, -1]),
        (["0", "4", "", "3.0"], [0, 4, -1, 3]),
        (np.array([1, 2], np.uint8), [1, 2]),
    ],
)
def test_given_vocabulary_takes_integer_ids(values, expected):
    preprocessor = Preprocessor.identity(Schema(categorical=[Categorical("c", 5)]))
    assert ids(preprocessor, values) == [[i] for i in expected]


@pytest.mark.parametrize("values", [[0, 5], [0, -2], [0.0, 1.5], ["0", "x"], ["0", "5"]])
def test_given_vocabulary_refuses_other_values(values):
    preprocessor = Preprocessor.identity(Schema(categorical=[Categorical("c", 5)]))
    with pytest.raises(ValueError, match=r"row 1, column 'c': value .* must be an integer id: 0 … 4"):
        ids(preprocessor, values)
    with pytest.raises(TypeError, match="ids must be integers"):
        ids(preprocessor, [True, False])


def test_missing_columns_and_unequal_lengths_are_named():
    schema = Schema(dense=["x"], categorical=[Categorical("c", 3)])
    preprocessor = Preprocessor.identity(schema)
    with pytest.raises(KeyError, match="column 'c' is missing"):
        preprocessor.transform({"x": [1.0]})
    with pytest.raises(ValueError, match="'c' has 2 rows but 'x' has 1"):
        preprocessor.transform({"x": [1.0], "c": [1, 2]})
    with pytest.raises(TypeError, match="not list"):
        preprocessor.transform([1, 2])
    with pytest.raises(KeyError, match="column 'c' is missing"):
        Preprocessor.fit(Schema(categorical=[Categorical("c")]), pl.DataFrame({"d": [1]}))
    with pytest.raises(ValueError, match="is not fitted"):
        Preprocessor(Schema(dense=[Dense("x", "quantile")]))


def test_any_kind_of_frame_gives_the_same_batch():
    schema = Schema(dense=[Dense("x", "standardize")], categorical=[Categorical("c")])
    columns = {"x": [1.0, 2.0, None], "c": ["a", None, "b"], "other": [1, 2, 3]}
    frame = pl.DataFrame(columns)
    fitted = [Preprocessor.fit(schema, data) for data in (frame, frame.lazy(), [frame[:1], frame[1:]])]
    batches = [p.transform(data) for p in fitted for data in (frame, columns, pd.DataFrame(columns))]
    for batch in batches:
        np.testing.assert_array_equal(batch["sparse"], [[1], [-1], [2]])
        np.testing.assert_allclose(batch["dense"], [[-1.0], [1.0], [0.0]])
        assert batch["sparse"].dtype == np.int32 and batch["dense"].dtype == np.float32


def test_weights_of_a_weighted_schema():
    schema = Schema(categorical=[Categorical("c", 5, hotness=2), Categorical("d", 5)], weighted=True)
    preprocessor = Preprocessor.identity(schema)
    batch = preprocessor.transform({"c": [[1, 2], [3]], "d": [0, None]}, weights={"c": [[0.5, 2.0], [4.0]]})
    assert batch["weights"].tolist() == [[0.5, 2.0, 1.0], [4.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="'c': in row 1 weight 3 has no id"):
        preprocessor.transform({"c": [[1], [3]], "d": [0, 1]}, weights={"d": [[1.0], [1.0]], "c": [[1.0], [1.0, 3.0]]})
    with pytest.raises(ValueError, match="weighted=False"):
        fit_one(["a"]).transform({"c": ["a"]}, weights={"c": [1.0]})


VALUES = st.one_of(st.none(), st.text(max_size=3), st.integers(-3, 3).map(str))


@given(train=st.lists(VALUES, max_size=20), test=st.lists(VALUES, max_size=10), oov=st.sampled_from([None, 0, 2]))
def test_saved_and_loaded_it_gives_the_same_batches(tmp_path_factory, train, test, oov):
    directory = tmp_path_factory.mktemp("preprocessor")
    schema = Schema(dense=[Dense("x", "quantile")], categorical=[Categorical("c", oov=oov), Categorical("d", 4)])
    text = pl.Series(train, dtype=pl.String)
    frame = pl.DataFrame({"x": np.arange(float(len(train))), "c": text, "d": np.ones(len(train), int)})
    preprocessor = Preprocessor.fit(schema, frame)
    preprocessor.save(directory)
    loaded = Preprocessor.load(directory)
    assert loaded.schema == preprocessor.schema
    rows = {"x": np.arange(float(len(test))), "c": pl.Series(test, dtype=pl.String), "d": np.full(len(test), 3)}
    first, second = preprocessor.transform(rows), loaded.transform(rows)
    missing = (None, "", "-1")
    known = [v for v in dict.fromkeys(train) if v not in missing]
    size = preprocessor.schema.table_sizes["c"]
    preprocessor.schema.validate(first)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    for value, (i, _) in zip(test, first["sparse"].tolist(), strict=True):
        assert (i == -1) == (value in missing or (oov is None and value not in known))
        assert i < size and (value not in known or i != oov)


REQUESTS = Schema(
    dense=[Dense("x", "standardize")],
    categorical=[
        Categorical("c", oov_rows=3),
        Categorical("tags", hotness=2),
        Categorical("h", 50, hashed=True),
        Categorical("g", 9),
    ],
)
TRAINING = {"x": [1.0, 3.0], "c": [7, 8], "tags": [["a", "b"], ["c"]], "h": ["Rome", "Oslo"], "g": [0, 8]}


@pytest.mark.parametrize("kind", [dict, pl.DataFrame, pd.DataFrame, lambda rows: pl.DataFrame(rows).lazy()])
def test_a_request_of_one_row_gives_that_row_of_the_batch(kind):
    preprocessor = Preprocessor.fit(REQUESTS, pl.DataFrame(TRAINING))
    whole = preprocessor.transform(TRAINING)
    for i in range(2):
        one = preprocessor.transform(kind({name: values[i : i + 1] for name, values in TRAINING.items()}))
        for key, rows in whole.items():
            assert one[key].dtype == rows.dtype and one[key].tolist() == rows[i : i + 1].tolist()


@pytest.mark.parametrize("rows", [
    {name: [] for name in TRAINING},
    {name: np.array([]) for name in TRAINING},
    pl.DataFrame(TRAINING)[:0],
    pd.DataFrame(TRAINING)[:0],
    pl.DataFrame({name: [] for name in TRAINING}),
])  # fmt: skip
def test_no_rows_make_a_batch_without_rows(rows):
    batch = Preprocessor.fit(REQUESTS, pl.DataFrame(TRAINING)).transform(rows)
    assert {key: (v.shape, v.dtype.name) for key, v in batch.items()} == {
        "dense": ((0, 1), "float32"), "sparse": ((0, 5), "int32")}  # fmt: skip


@pytest.mark.parametrize("other", [
    {"x": ["1", "3.0"], "c": ["7", "8.0"], "g": ["0", "8"]},
    {"x": np.array([1, 3], np.int8), "c": np.array([7.0, 8.0], np.float32), "g": np.array([0, 8], np.uint16)},
    {"x": np.array([1, 3], np.float16), "c": pl.Series(["7", "8"], dtype=pl.Categorical), "g": [0.0, 8.0]},
    {"tags": ["a|b", "c"], "h": np.array(["Rome", "Oslo"])},
    {"tags": np.array([["a", "b"], ["c", None]], object), "h": pl.Series(["Rome", "Oslo"], dtype=pl.Categorical)},
])  # fmt: skip
def test_values_of_other_dtypes_than_at_training_are_the_same_values(other):
    preprocessor = Preprocessor.fit(REQUESTS, pl.DataFrame(TRAINING))
    expected, found = preprocessor.transform(TRAINING), preprocessor.transform({**TRAINING, **other})
    for key, rows in expected.items():
        np.testing.assert_array_equal(found[key], rows)


def test_unseen_values_spread_over_the_oov_rows_by_a_hash_that_never_changes():
    preprocessor = fit_one(["x", "y"], oov=1, oov_rows=4)
    assert preprocessor.schema.table_sizes == {"c": 6}
    assert ids(preprocessor, ["x", "y", None]) == [[0], [5], [-1]]
    # What TensorFlow's to_hash_bucket_strong gives for them modulo 4, and 1.
    assert ids(preprocessor, ["a", "Rome", "12345678", "ä"]) == [[3], [3], [4], [4]]
    assert ids(preprocessor, [17, "17.0"]) == 2 * ids(preprocessor, ["17"])
    many = np.bincount(np.ravel(ids(preprocessor, [f"user {i}" for i in range(4000)])), minlength=6)
    assert many[[0, 5]].sum() == 0 and many[1:5].min() > 850


def test_oov_rows_must_fit():
    with pytest.raises(ValueError, match="oov=2 with oov_rows=3 is outside max_vocabulary=4"):
        fit_one(["x"], oov=2, oov_rows=3, max_vocabulary=4)
    assert fit_one(list("abcdef"), oov_rows=3, max_vocabulary=5).schema.table_sizes == {"c": 5}
    for fields, message in [
        ({"oov": None}, "oov=None leaves unseen values out"),
        ({"hashed": True, "vocabulary_size": 9}, "no value of a hashed column is unseen"),
        ({"vocabulary_size": 2}, "goes beyond vocabulary_size=2"),
    ]:
        with pytest.raises(ValueError, match=message):
            Categorical("c", oov_rows=3, **fields)
    with pytest.raises(ValueError, match="share table 't' but give oov_rows=1 and 2"):
        Schema(categorical=[Categorical("a", table="t"), Categorical("b", table="t", oov_rows=2)])


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_whatever_pandas_has_for_a_missing_value_is_missing(missing):
    schema = Schema(dense=["x"], categorical=[Categorical("c"), Categorical("t", hotness=2), Categorical("g", 5)])
    fitted = Preprocessor.fit(schema, pl.DataFrame({"x": [1.0], "c": ["a"], "t": [["p"]], "g": [1]}))
    rows = {"x": [2.0, missing], "c": ["a", missing], "t": [["p", missing], missing], "g": [1, missing]}
    # Numbers have no NaT.
    typed = {"c": "string"} if missing is pd.NaT else {"x": "Float64", "c": "string", "g": "Int64"}
    frame = pd.DataFrame({name: pd.array(values, dtype=typed.get(name, object)) for name, values in rows.items()})
    for given_rows in (rows, frame):
        batch = fitted.transform(given_rows)
        assert batch["sparse"].tolist() == [[1, 1, -1, 1], [-1, -1, -1, -1]]
        assert batch["dense"].tolist() == [[2.0], [0.0]]


def test_text_that_is_none_names_its_column():
    schema = Schema(categorical=[Categorical("c")])
    fitted = Preprocessor.fit(schema, pl.DataFrame({"c": ["a"]}))
    with pytest.raises(ValueError, match="column 'c' holds half of a surrogate pair"):
        fitted.transform({"c": ["\ud800"]})


def test_its_representation_says_columns_and_tables():
    schema = Schema(dense=["x"], categorical=[Categorical("a"), Categorical("b", 4)])
    fitted = Preprocessor.fit(schema, {"x": [1.0, 2.0], "a": ["u", "v"], "b": [0, 1]})
    assert repr(fitted) == "Preprocessor(1 dense columns; tables {a: 3 rows, b: 4 rows}, 1 of 2 vocabularies fitted)"
