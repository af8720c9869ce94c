"""Schema: shape, descriptions that are refused, and round trips."""

import json

import numpy as np
import pytest
from helpers.schemas import SCHEMA
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm.schema.schema import Categorical, Dense, Schema

pytestmark = pytest.mark.neutral


# -- shape --


def test_shape_follows_the_order_of_the_columns():
    assert SCHEMA.dense_names == ("price", "age")
    assert SCHEMA.categorical_names == ("C1", "tags", "last")
    assert (SCHEMA.n_dense, SCHEMA.width, SCHEMA.offsets) == (2, 5, (0, 1, 4))
    assert SCHEMA.table_sizes == {"C1": 10, "tags": 5}
    assert SCHEMA.input_names == ("dense", "sparse")
    assert Schema(categorical=[Categorical("a", 2)], weighted=True).input_names == ("sparse", "weights")
    assert "W=5" in repr(SCHEMA)


def test_equal_schemas_have_equal_hashes():
    again = Schema.from_dict(SCHEMA.to_dict())
    assert again == SCHEMA and hash(again) == hash(SCHEMA) and again != Schema(["x"])


# -- bad descriptions --


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: Schema(["a", "a"]), ValueError, ["'a'", "unique"]),
        (lambda: Schema(["a"], [Categorical("a", 3)]), ValueError, ["'a'", "unique"]),
        (lambda: Schema(["a"], label="a"), ValueError, ["'a'", "unique"]),
        (lambda: Schema(), ValueError, ["no columns"]),
        (lambda: Schema(["a"], weighted=True), ValueError, ["weighted"]),
        (lambda: Schema([3]), TypeError, ["3", "names"]),
        (lambda: Schema("I1"), TypeError, ["'I1'", "one string", "list"]),
        (lambda: Schema(5), TypeError, ["dense=5", "list"]),
        (lambda: Schema(categorical=Categorical("C1", 3)), TypeError, ["categorical=", "one Categorical", "list"]),
        (lambda: Schema.from_yaml("dense: age"), TypeError, ["dense='age'", "one string", "list"]),
        (lambda: Schema.from_yaml("dense: 5"), TypeError, ["dense=5", "one int", "list"]),
        (lambda: Schema.from_yaml("categorical: {user: {vocabulary_size: 5}}"), TypeError,
         ["categorical={'user'", "one mapping", "list"]),
        (lambda: Schema.from_json("{"), ValueError, ["JSON"]),
        (lambda: Schema(categorical=[3]), TypeError, ["3", "Categorical"]),
        (lambda: Schema(["a"], label=""), TypeError, ["label"]),
        (lambda: Schema(["a"], [Categorical("b", 3)], weighted="False"), TypeError, ["weighted", "'False'"]),
        (lambda: Categorical("", 3), TypeError, ["name"]),
        (lambda: Categorical("a", 0), ValueError, ["'a'", "vocabulary_size=0"]),
        (lambda: Categorical("a", 2**31), ValueError, ["'a'", f"vocabulary_size={2**31}"]),
        (lambda: Categorical("a", 3.0), ValueError, ["'a'", "3.0", "integer"]),
        (lambda: Categorical("a", True), ValueError, ["'a'", "integer"]),
        (lambda: Categorical("a", 3, hotness=0), ValueError, ["'a'", "hotness=0"]),
        (lambda: Categorical("a", 3, combiner="max"), ValueError, ["'a'", "'max'", "sqrtn"]),
        (lambda: Categorical("a", 3, oov=3), ValueError, ["'a'", "oov=3", "0 … 2"]),
        (lambda: Categorical("a", 3, oov=-1), ValueError, ["'a'", "oov=-1"]),
        (lambda: Categorical("a", 3, table=""), TypeError, ["'a'", "table"]),
        (lambda: Categorical("a", min_count=0), ValueError, ["'a'", "min_count=0"]),
        (lambda: Categorical("a", max_vocabulary=0), ValueError, ["'a'", "max_vocabulary=0"]),
        (lambda: Dense("a", transform="cube"), ValueError, ["'a'", "'cube'", "log1p"]),
        (lambda: Dense("a", missing=float("nan")), ValueError, ["'a'", "missing"]),
        (lambda: Schema(categorical=[Categorical("a", 3), Categorical("b", 4, table="a")]), ValueError,
         ["'a'", "'b'", "vocabulary_size=3", "4"]),
        (lambda: Schema(categorical=[Categorical("a", 3), Categorical("b", 3, table="a", oov=None)]), ValueError,
         ["oov=0", "None"]),
        (lambda: Schema.from_dict({"dens": []}), ValueError, ["'dens'", "dense"]),
        (lambda: Schema.from_dict([1]), TypeError, ["mapping"]),
        (lambda: Schema.from_dict({"categorical": [{"name": "a", "size": 3}]}), ValueError, ["'size'", "hotness"]),
        (lambda: Schema.from_dict({"categorical": [{"hotness": 3}]}), ValueError, ["without a name"]),
        (lambda: Schema.from_dict({"categorical": [3]}), TypeError, ["3"]),
        (lambda: SCHEMA.replace_categorical(zzz={}), KeyError, ["'zzz'", "'C1'"]),
    ],
)  # fmt: skip
def test_bad_descriptions_are_refused(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_a_schema_that_is_not_fitted_does_not_pack():
    schema = Schema(categorical=[Categorical("a"), Categorical("b", 3)])
    assert not schema.fitted
    for use in (lambda: schema.pack({"a": [1], "b": [1]}), lambda: schema.table_sizes, lambda: schema.validate({})):
        with pytest.raises(ValueError, match="'a' has no vocabulary_size"):
            use()
    assert schema.replace_categorical(a={"vocabulary_size": 7}).table_sizes == {"a": 7, "b": 3}


# -- round trips --

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def schemas(draw):
    names = draw(st.lists(NAMES, min_size=2, max_size=7, unique=True))
    cut = draw(st.integers(0, len(names) - 2))
    dense = [
        Dense(n, draw(st.sampled_from(["none", "log1p", "quantile"])), draw(st.floats(-1e6, 1e6)))
        for n in names[1 : 1 + cut]
    ]
    categorical = []
    for name in names[1 + cut :]:
        size = draw(st.none() | st.integers(1, 2**31 - 1))
        categorical.append(
            Categorical(
                name,
                size,
                hotness=draw(st.integers(1, 9)),
                combiner=draw(st.sampled_from(["sum", "mean", "sqrtn"])),
                table=draw(st.none() | st.just(name)),
                oov=draw(st.none() | st.integers(0, (size or 9) - 1)),
                min_count=draw(st.integers(1, 9)),
                max_vocabulary=draw(st.none() | st.integers(1, 99)),
            )
        )
    return Schema(dense, categorical, names[0], draw(st.booleans()))


@given(schemas())
def test_round_trips_through_dict_json_and_yaml(schema):
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_yaml(schema.to_yaml()) == schema
    assert Schema.from_config(schema.get_config()) == schema


@pytest.mark.parametrize("name", ["schema.json", "schema.yaml", "schema.yml"])
def test_round_trips_through_files(tmp_path, name):
    SCHEMA.save(tmp_path / name)
    assert Schema.load(tmp_path / name) == SCHEMA


def test_an_unknown_file_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.yaml"):
        SCHEMA.save(tmp_path / "schema.txt")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("bad.json", b"{", "not valid JSON"),
        ("bad.yaml", b"label: [", "not valid YAML"),
        ("bad.yaml", b"dense: age", "dense='age'"),
        ("bad.yaml", b"\xff\xfe", "not a text file"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((TypeError, ValueError), match=f"{name}: .*{words}"):
        Schema.load(tmp_path / name)


def test_numpy_numbers_round_trip_too():
    schema = Schema([Dense("a", missing=np.float32(0.5))], [Categorical("b", np.int64(3), hotness=np.int32(2))])
    assert Schema.from_json(schema.to_json()) == schema == Schema.from_yaml(schema.to_yaml())


def test_names_of_dense_columns_may_stand_alone_in_files():
    assert Schema.from_yaml("dense: [I1]\ncategorical: [{name: C1, vocabulary_size: 3}]").dense == (Dense("I1"),)


def test_names_are_taken_for_categorical_columns_whose_vocabularies_are_fitted():
    assert Schema(["x"], ["user_id", Categorical("b", 3)]).categorical == (Categorical("user_id"), Categorical("b", 3))
