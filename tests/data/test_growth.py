"""Vocabularies grown by new days: known ids never change, and growing is like having fitted longer."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm.data import criteo
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.vocabulary import HEX, Keys
from keras_dlrm.schema.schema import Categorical, Dense, Schema

pytestmark = pytest.mark.neutral


def frame(values):
    return pl.DataFrame({"c": pl.Series(values, dtype=pl.String)})


def fit(values, **fields):
    return Preprocessor.fit(Schema(categorical=[Categorical("c", **fields)]), frame(values))


def ids(preprocessor, values):
    return preprocessor.transform(frame(values))["sparse"].ravel().tolist()


def test_new_values_follow_the_known_ones_in_the_order_of_their_first_appearance():
    before = fit(["b", "a"])
    after = before.grow([frame(["a", "d", None]), frame(["c", "d", "b"])])
    assert ids(after, ["b", "a", "d", "c", "?", None]) == [1, 2, 3, 4, 0, -1]
    assert after.schema.table_sizes == {"c": 5}
    assert before.schema.table_sizes == {"c": 3} and ids(before, ["d"]) == [0]


def test_new_values_must_be_frequent_enough_in_the_new_days():
    after = fit(["a", "a", "x"], min_count=2).grow(frame(["x", "y", "z", "y"]))
    assert ids(after, ["a", "y", "x", "z"]) == [1, 2, 0, 0]


def test_a_cap_keeps_the_most_frequent_of_the_new_values():
    before = fit(["a"], max_vocabulary=4)
    after = before.grow(frame(["d", "b", "c", "c", "b"]))
    assert ids(after, ["a", "b", "c", "d"]) == [1, 2, 3, 0] and after.schema.table_sizes == {"c": 4}
    assert ids(after.grow(frame(["e"] * 9)), ["e"]) == [0]


def test_oov_rows_ahead_of_the_numbering_are_left_out_and_within_the_cap():
    before = fit(["a"], oov=2, oov_rows=2, max_vocabulary=6)
    assert before.schema.table_sizes == {"c": 4}
    after = before.grow(frame(["b", "c", "d", "e"]))
    assert ids(after, list("abcd")) == [0, 1, 4, 5] and ids(after, ["e"])[0] in (2, 3)
    assert after.schema.table_sizes == {"c": 6}


def test_a_shared_table_grows_once_for_all_its_columns():
    columns = [Categorical("last", table="item"), Categorical("seen", table="item", hotness=2), Categorical("given", 3)]
    before = Preprocessor.fit(Schema(categorical=columns), pl.DataFrame({"last": ["a"], "seen": [["b"]]}))
    after = before.grow(pl.DataFrame({"last": ["d", "c"], "seen": [["c", "a"], ["e"]]}))
    assert after.schema.table_sizes == {"item": 6, "given": 3}
    batch = after.transform({"last": ["a", "d"], "seen": [["b", "c"], ["e", "?"]], "given": [0, 2]})
    assert batch["sparse"].tolist() == [[1, 2, 4, 0], [3, 5, 0, 2]]


def test_dense_statistics_stay():
    schema = Schema(dense=[Dense("x", "standardize")], categorical=[Categorical("c")])
    before = Preprocessor.fit(schema, pl.DataFrame({"x": [0.0, 2.0], "c": ["a", "b"]}))
    after = before.grow(pl.DataFrame({"c": ["z"]}))
    assert after.dense_state == before.dense_state
    assert after.transform({"x": [3.0], "c": ["z"]})["dense"].tolist() == [[2.0]]


def test_hexadecimal_keys_grow_too_from_none_as_well():
    schema = Schema(categorical=[Categorical("c", oov=None)])
    keys = {"c": Keys(HEX, 100)}
    for known in (["1f"], []):
        after = Preprocessor.fit(schema, frame(known), keys).grow(frame(["1f", "0a", "", "6e"]))  # 0x6e % 100 = 0x0a
        assert ids(after, ["1f", "A", "", "ff"]) == [0, 1, 2, -1] and after.schema.table_sizes == {"c": 3}


def test_a_bad_value_is_named():
    with pytest.raises(ValueError, match="row 3, column 'c': value 'x' must be hexadecimal"):
        Preprocessor.fit(Schema(categorical=[Categorical("c")]), frame(["1"]), {"c": Keys(HEX)}).grow(
            [frame(["1", "2"]), frame(["3", "x"])]
        )
    with pytest.raises(KeyError, match="column 'c' is missing"):
        fit(["a"]).grow(pl.DataFrame({"d": ["a"]}))


VALUES = st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh"), st.text(max_size=2)), max_size=12)
FIELDS = st.fixed_dictionaries(
    {"oov": st.sampled_from([None, 0, 2]), "min_count": st.sampled_from([1, 2]), "max_vocabulary": st.sampled_from([None, 6])}
)


@given(days=st.tuples(VALUES, VALUES, VALUES), fields=FIELDS, oov_rows=st.sampled_from([1, 3]))
def test_known_ids_never_change_and_growing_by_nothing_changes_nothing(days, fields, oov_rows):
    if fields["oov"] is not None:
        fields = {**fields, "oov_rows": oov_rows}
    everything = [v for day in days for v in day if v is not None] + ["unseen"]
    preprocessor = fit(days[0], **fields)
    for day in days[1:]:
        grown = preprocessor.grow(frame(day))
        known = preprocessor.vocabularies["c"].values.to_list()
        assert ids(grown, known) == ids(preprocessor, known)
        everywhere = grown.vocabularies["c"]
        assert len(set(everywhere.ids.tolist())) == len(everywhere.values) == everywhere.values.n_unique()
        if fields["oov"] is not None:
            assert not set(everywhere.ids.tolist()) & set(range(fields["oov"], fields["oov"] + oov_rows))
        still_unseen = [v for v in everything if v not in ("", "-1") and v not in everywhere.values]
        assert ids(grown, still_unseen) == ids(preprocessor, still_unseen)
        grown.schema.validate(grown.transform(frame(everything)))
        again = grown.grow([frame([]), frame(known)])
        assert again.schema == grown.schema and ids(again, everything) == ids(grown, everything)
        preprocessor = grown


@given(first=VALUES, second=VALUES, oov=st.sampled_from([None, 0, 2]))
def test_without_thresholds_growing_is_the_same_as_having_fitted_on_all_days(first, second, oov):
    grown, whole = fit(first, oov=oov).grow(frame(second)), fit(first + second, oov=oov)
    values = [v for v in first + second if v is not None] + ["unseen"]
    assert grown.schema == whole.schema and ids(grown, values) == ids(whole, values)


def test_a_vocabulary_can_be_grown_after_a_reload(tmp_path):
    before = fit(["a", "b"], oov_rows=2)
    before.save(tmp_path)
    day = frame(["c", "a", "d"])
    assert ids(Preprocessor.load(tmp_path).grow(day), list("abcde")) == ids(before.grow(day), list("abcde"))


# -- Criteo's directories --

CATEGORIES = [f"C{i}" for i in range(1, 27)]
COUNTS = [f"I{i}" for i in range(1, 14)]


def criteo_days(tmp_path):
    """Two made-up days, and the second as a frame."""
    random = np.random.default_rng(0)
    lines = []
    for day in range(2):
        for _ in range(30):
            counts = ["" if random.random() < 0.2 else str(random.integers(-2, 50)) for _ in range(13)]
            keys = ["" if random.random() < 0.2 else f"{(random.integers(0, 9) + 5 * day) * 477218589:08x}" for _ in range(26)]
            lines.append("\t".join([str(random.integers(0, 2)), *counts, *keys]))
    (tmp_path / "first.txt").write_text("\n".join(lines[:30]) + "\n")
    (tmp_path / "both.txt").write_text("\n".join(lines) + "\n")
    rows = [line.split("\t") for line in lines[30:]]
    return pl.DataFrame(rows, schema=["label", *COUNTS, *CATEGORIES], orient="row")


@pytest.mark.parametrize("options", [{}, {"max_ind_range": 50}])
def test_a_grown_criteo_directory_numbers_a_new_day_as_if_it_had_been_there_from_the_start(tmp_path, options):
    day = criteo_days(tmp_path)
    frozen = criteo.preprocess(tmp_path / "first.txt", tmp_path / "one", **options).preprocessor
    both = criteo.preprocess(tmp_path / "both.txt", tmp_path / "two", **options)
    grown = frozen.grow(day)
    assert grown.schema == both.schema
    expected, found = both.preprocessor.transform(day), grown.transform(day)
    # Missing counts and categories are 0 in these logs.
    np.testing.assert_array_equal(found["sparse"], expected["sparse"])
    np.testing.assert_array_equal(found["dense"], expected["dense"])
    splits = [both.split(name).arrays()[0]["sparse"] for name in ("train", "test", "valid")]
    np.testing.assert_array_equal(np.concatenate(splits)[30:], found["sparse"])


@pytest.mark.parametrize("options", [{}, {"dialect": "torchrec"}, {"dialect": "torchrec", "table_sizes": 7}])
def test_a_frozen_criteo_directory_takes_new_days_with_unseen_values_in_the_oov_row(tmp_path, options):
    day = criteo_days(tmp_path)
    frozen = criteo.preprocess(tmp_path / "first.txt", tmp_path / "one", **options).preprocessor
    found = frozen.transform(day)
    frozen.schema.validate(found)
    seen = {(name, v or "0") for line in (tmp_path / "first.txt").read_text().splitlines()
            for name, v in zip(CATEGORIES, line.split("\t")[14:], strict=True)}  # fmt: skip
    unseen = np.array([[(name, v or "0") not in seen for name, v in zip(CATEGORIES, row, strict=True)]
                       for row in day.select(CATEGORIES).rows()])  # fmt: skip
    oov = np.broadcast_to([c.oov for c in frozen.schema.categorical], unseen.shape)
    assert unseen.any() and (found["sparse"] == oov)[unseen].all()


def test_torchrec_tables_of_a_given_size_do_not_grow_and_others_do(tmp_path):
    day = criteo_days(tmp_path)
    log = criteo.preprocess(tmp_path / "first.txt", tmp_path / "a", dialect="torchrec", table_sizes=7)
    assert log.preprocessor.grow(day).schema.table_sizes == dict.fromkeys(CATEGORIES, 7)
    log = criteo.preprocess(tmp_path / "first.txt", tmp_path / "b", dialect="torchrec", min_count=2)
    grown = log.preprocessor.grow(day)
    for name, size in log.preprocessor.schema.table_sizes.items():
        counts = day.filter(pl.col(name) != "")[name].value_counts().filter(pl.col("count") >= 2)[name]
        known = {v.lstrip("0") for v in map("{:x}".format, log.preprocessor.vocabularies[name].values)}
        assert grown.schema.table_sizes[name] == size + sum(v.lstrip("0") not in known for v in counts if v.strip("0"))
