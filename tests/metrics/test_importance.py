"""Permutation importance, of models that are written down."""

import numpy as np
import pytest

from keras_dlrm import metrics
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral

SCHEMA = Schema(dense=["x", "noise"], categorical=[Categorical("a", 4), Categorical("tags", 5, hotness=2)], weighted=True)


def rows(n=2000):
    random = np.random.default_rng(0)
    sparse = np.concatenate([random.integers(0, 4, (n, 1)), random.integers(-1, 5, (n, 2))], axis=1).astype(np.int32)
    batch = {
        "dense": random.normal(size=(n, 2)).astype(np.float32),
        "sparse": sparse,
        "weights": np.where(sparse < 0, 0, random.random((n, 3))).astype(np.float32),
    }
    return batch, random.random(n) < predict(batch)


def predict(batch):
    tags = np.where(batch["sparse"][:, 1:] < 0, 0, batch["weights"][:, 1:] * (batch["sparse"][:, 1:] - 2)).sum(axis=1)
    return 1 / (1 + np.exp(-(2 * batch["dense"][:, 0] + 0.4 * (batch["sparse"][:, 0] - 1.5) + 0.3 * tags)))


def test_the_drop_is_that_of_the_auc_with_the_column_shuffled():
    batch, labels = rows()
    before = {key: values.copy() for key, values in batch.items()}
    found = {row["column"]: row for row in metrics.permutation_importance(predict, SCHEMA, batch, labels, shuffles=2, seed=5)}
    assert list(found) == ["x", "tags", "a", "noise"] or list(found) == ["x", "a", "tags", "noise"]
    assert found["noise"]["auc_drop"] == found["noise"]["auc_spread"] == found["noise"]["logloss_rise"] == 0
    whole, drops = metrics.auc(labels, predict(batch)), []
    random = np.random.default_rng((5, 0))
    for _ in range(2):
        order = random.permutation(len(labels))
        dense = np.stack([batch["dense"][order, 0], batch["dense"][:, 1]], axis=1)
        drops.append(whole - metrics.auc(labels, predict({**batch, "dense": dense})))
    assert found["x"]["auc_drop"] == pytest.approx(np.mean(drops))
    assert found["x"]["auc_spread"] == pytest.approx(np.std(drops, ddof=1))
    for key, values in before.items():
        np.testing.assert_array_equal(batch[key], values)


def test_ids_of_a_list_move_together_with_their_weights():
    seen = []

    def watched(batch):
        seen.append({(*map(int, ids), *map(float, weights)) for ids, weights in
                     zip(batch["sparse"][:, 1:], batch["weights"][:, 1:], strict=True)})  # fmt: skip
        return predict(batch)

    batch, labels = rows(50)
    metrics.permutation_importance(watched, SCHEMA, batch, labels, shuffles=1)
    assert all(pairs == seen[0] for pairs in seen)


def test_the_same_seed_gives_the_same_figures_and_one_shuffle_has_no_spread():
    batch, labels = rows(200)
    first, again = (metrics.permutation_importance(predict, SCHEMA, batch, labels, None, 1, 3) for _ in range(2))
    assert first == again and first[0]["auc_spread"] is None
    assert first != metrics.permutation_importance(predict, SCHEMA, batch, labels, None, 1, 4)


def test_only_the_named_columns_are_shuffled_and_as_they_are_among_all():
    batch, labels = rows(200)
    whole = metrics.permutation_importance(predict, SCHEMA, batch, labels)
    some = metrics.permutation_importance(predict, SCHEMA, batch, labels, columns=["tags", "noise"])
    assert some == [row for row in whole if row["column"] in ("tags", "noise")]


def test_rows_count_what_their_weights_say():
    batch, labels = rows(300)
    ones = metrics.permutation_importance(predict, SCHEMA, batch, labels, np.full(300, 2.0))
    for weighted, plain in zip(ones, metrics.permutation_importance(predict, SCHEMA, batch, labels), strict=True):
        assert weighted["auc_drop"] == pytest.approx(plain["auc_drop"], abs=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shuffles": 0}, "shuffles=0 must be an integer >= 1"),
        ({"seed": -1}, "seed=-1"),
        ({"columns": ["b"]}, r"no column 'b'; the schema has \['x', 'noise', 'a', 'tags'\]"),
        ({"labels": np.zeros(200)}, "all 200 labels are 0"),
    ],
)
def test_bad_arguments_are_named(change, words):
    batch, labels = rows(200)
    with pytest.raises(ValueError, match=words):
        metrics.permutation_importance(**{"predict": predict, "schema": SCHEMA, "batch": batch, "labels": labels, **change})


def test_a_batch_of_another_schema_is_refused():
    batch, labels = rows(200)
    with pytest.raises(KeyError, match="'weights' is missing"):
        metrics.permutation_importance(predict, SCHEMA, {k: v for k, v in batch.items() if k != "weights"}, labels)
