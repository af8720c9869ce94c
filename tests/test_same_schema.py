"""A model knows the vocabulary and the statistics that it was trained with: data of others is refused, by column."""

import numpy as np
import polars as pl
import pytest

import keras_dlrm.data as data
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.schema.schema import Categorical, Dense, Schema

pytestmark = pytest.mark.neutral

RAW = Schema(
    dense=[Dense("age"), Dense("price", "standardize"), Dense("rank", "quantile")],
    categorical=[Categorical("user", max_vocabulary=9), Categorical("tags", hotness=2), Categorical("given", 5)],
    label="click",
)


def rows(seed, n=300):
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "age": random.random(n),
            "price": random.exponential(9, n),
            "rank": random.normal(size=n),
            "user": [f"u{i}" for i in random.integers(0, 50, n)],
            "tags": [f"t{i}|t{j}" for i, j in random.integers(0, 4, (n, 2))],
            "given": random.integers(0, 5, n),
            "click": random.integers(0, 2, n),
        }
    )


def fitted(seed=0):
    return Preprocessor.fit(RAW, rows(seed))


def identities(schema):
    return {c.name: c.identity for c in [*schema.dense, *schema.categorical]}


def test_the_same_rows_give_the_same_identities_whatever_way_they_come(tmp_path):
    frame, wanted = rows(0), fitted().schema
    frame.write_csv(tmp_path / "a.csv")
    frame.write_parquet(tmp_path / "a.parquet")
    assert {name for name, value in identities(wanted).items() if value} == {"price", "rank", "user", "tags"}
    split = {"train": 1.0}
    for name, workers in (("a.csv", 1), ("a.parquet", 2)):
        log = data.tables.preprocess(RAW, tmp_path / name, output=tmp_path / f"log-{name}", split=split, workers=workers)
        assert identities(log.schema) == identities(log.preprocessor.schema) == identities(wanted)
    parts = Preprocessor.fit(RAW, (frame[i : i + 7] for i in range(0, len(frame), 7)))
    assert identities(parts.schema) == identities(wanted)
    frozen = data.tables.preprocess(
        None, tmp_path / "a.csv", output=tmp_path / "new", split=split, preprocessor=log.preprocessor
    )  # fmt: skip
    assert identities(frozen.schema) == identities(wanted)


def test_identities_travel_with_the_schema(tmp_path):
    schema = fitted().schema
    for name in ("schema.json", "schema.yaml"):
        schema.save(tmp_path / name)
        assert identities(Schema.load(tmp_path / name)) == identities(schema)
    assert identities(Preprocessor.identity(schema).schema) == identities(schema)
    with pytest.raises(TypeError, match="identity=3 must be a string"):
        Categorical("a", 3, identity=3)
    with pytest.raises(ValueError, match="share table 't' but give identity=x and y"):
        Schema(categorical=[Categorical("a", 3, table="t", identity="x"), Categorical("b", 3, table="t", identity="y")])


def test_other_rows_are_other_vocabularies_and_statistics():
    ours, theirs = fitted(0), fitted(1)
    with pytest.raises(ValueError, match=r"predict: column 'price' was transformed by other statistics"):
        check_same("predict", ours.schema, theirs.schema)
    with pytest.raises(ValueError, match=r"predict: column 'user' has another vocabulary in the data .*of the same size"):
        check_same("predict", Schema(["a"], ours.schema.categorical[:1]), Schema(["a"], theirs.schema.categorical[:1]))
    # The same values in another order.
    frames = (pl.DataFrame({"city": cities}) for cities in (["Rome", "Oslo"], ["Oslo", "Rome"]))
    one, two = (Preprocessor.fit(Schema(categorical=[Categorical("city")]), frame) for frame in frames)
    with pytest.raises(ValueError, match="'city' has another vocabulary"):
        check_same("predict", one.schema, two.schema)


def test_growing_is_another_vocabulary_and_growing_by_nothing_is_none():
    before = fitted()
    again = before.grow(rows(0))
    assert identities(again.schema) == identities(before.schema)
    grown = before.grow(rows(0).with_columns(tags=pl.lit("new")))
    changed = {name for name, value in identities(grown.schema).items() if value != identities(before.schema)[name]}
    assert changed == {"tags"}
    with pytest.raises(ValueError, match="'tags' has vocabulary_size=5 in the model, 6 in the data.*grow"):
        check_same("predict", before.schema, grown.schema)


def test_a_schema_made_by_hand_is_compared_by_names_and_sizes():
    whole = fitted().schema
    by_hand = Schema(
        whole.dense_names, [Categorical(c.name, c.vocabulary_size, c.hotness) for c in whole.categorical], label="click"
    )
    check_same("predict", by_hand, whole)
    check_same("predict", whole, by_hand)
    with pytest.raises(ValueError, match="'price' has transform=none in the model, standardize in the data"):
        check_same("evaluate", by_hand, whole, scores=True)


C = Categorical("c", 9)


@pytest.mark.parametrize(
    ("model", "other", "words"),
    [
        (Schema(["a"], [C]), Schema(["b"], [C]), "no column 'a', which the model takes, and has 'b' besides"),
        (Schema(["a"], [C]), Schema(["a", "b"], [C]), "a column 'b', which the model does not take"),
        (Schema(["a", "b"]), Schema(["b", "a"]), "another order: 'a' in the model where the data has 'b'"),
        (Schema(["a"], [C]), Schema([], [C, Categorical("a", 3)]), r"the dense columns \['a'\], the data \[\]"),
        (Schema(["a"], [C]), Schema(["a"], [Categorical("c", 8)]), "'c' has vocabulary_size=9 in the model, 8 in"),
        (Schema(["a"], [C]), Schema(["a"], [Categorical("c", 9, oov=1)]), "'c' has oov=0 in the model, 1 in"),
        (Schema(["a"], [C]), Schema(["a"], [C], weighted=True), "weighted=False in the model, True in the data"),
        (Schema(["a"], [C]), Schema(["a"], [C], label="like"), "the label is 'label' in the model, 'like' in the data"),
    ],
)
def test_what_differs_is_named(model, other, words):
    with pytest.raises(ValueError, match=f"evaluate: .*{words}"):
        check_same("evaluate", model, other, scores=True)
    check_same("evaluate", model, model, scores=True)
