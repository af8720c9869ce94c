"""Planted click logs: the known best is right, rows are reproducible, and the signal is where it is said to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

import keras_dlrm.data as data
from keras_dlrm.data.synthetic import PlantedClickLog, criteo_shape
from keras_dlrm.data.synthetic.probabilities import expected_auc, expected_logloss
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral

SCHEMA = Schema(
    dense=["x", "y"],
    categorical=[
        Categorical("a", 50),
        Categorical("tags", 30, hotness=4),
        Categorical("last", 30, table="tags"),
        Categorical("b", 3),
    ],
)


def collect(log, rows, batch_size=500, part="train"):
    parts = list(log.batches(batch_size, rows=rows, part=part))
    return {k: np.concatenate([p[0][k] for p in parts]) for k in parts[0][0]}, np.concatenate([p[1] for p in parts])


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=2, max_size=12))
def test_expected_auc_equals_the_sum_over_all_pairs(probabilities):
    right = pairs = 0.0
    for i, p in enumerate(probabilities):
        for j, q in enumerate(probabilities):
            if i != j:
                pairs += p * (1 - q)
                right += p * (1 - q) * (1.0 if p > q else 0.5 if p == q else 0.0)
    found = expected_auc(np.array(probabilities))
    assert np.isnan(found) if pairs < 1e-12 else found == pytest.approx(right / pairs, abs=1e-9)


def test_expected_logloss_is_the_mean_entropy():
    p = np.array([0.2, 0.7])
    assert expected_logloss(p) == pytest.approx(np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p)))
    assert expected_logloss(np.array([0.0, 1.0])) == 0.0


@pytest.mark.slow
def test_best_is_what_the_true_probabilities_reach_on_drawn_labels():
    log = PlantedClickLog(SCHEMA, seed=1)
    batch, label = collect(log, 40_000)
    p = log.probabilities(batch)
    ranks = np.argsort(np.argsort(p)) + 1.0
    clicks = label.sum()
    auc = (ranks[label == 1].sum() - clicks * (clicks + 1) / 2) / (clicks * (len(label) - clicks))
    loss = -np.mean(label * np.log(p) + (1 - label) * np.log1p(-p))
    assert log.best_auc == pytest.approx(0.80, abs=0.005) and auc == pytest.approx(log.best_auc, abs=0.012)
    assert loss == pytest.approx(log.best_logloss, abs=0.012)
    assert label.mean() == pytest.approx(0.25, abs=0.015)


def test_click_rate_and_best_auc_are_as_asked_for():
    log = PlantedClickLog(SCHEMA, seed=1, click_rate=0.05, target_auc=0.7)
    assert log.best_auc == pytest.approx(0.7, abs=0.01)
    assert log.probabilities(collect(log, 20_000)[0]).mean() == pytest.approx(0.05, abs=0.005)


@pytest.mark.slow
def test_rows_do_not_depend_on_the_batch_size_and_parts_differ():
    log = PlantedClickLog(SCHEMA, seed=2)
    one, two = collect(log, 9000, 9000), collect(PlantedClickLog(SCHEMA, seed=2), 9000, 700)
    np.testing.assert_array_equal(one[1], two[1])
    for name in one[0]:
        np.testing.assert_array_equal(one[0][name], two[0][name])
    assert (collect(log, 100, part="test")[0]["sparse"] != one[0]["sparse"][:100]).any()
    assert (collect(PlantedClickLog(SCHEMA, seed=3), 100)[0]["sparse"] != one[0]["sparse"][:100]).any()


def test_batches_fit_the_schema_and_multi_hot_columns_have_one_to_hotness_ids():
    log = PlantedClickLog(SCHEMA, seed=0)
    batches = list(log.batches(300, n_batches=3))
    assert len(batches) == 3
    for batch, label in batches:
        SCHEMA.validate(batch)
        assert label.dtype == np.float32 and set(label) <= {0.0, 1.0}
    lengths = (batches[0][0]["sparse"][:, 1:5] >= 0).sum(1)
    assert set(lengths) == {1, 2, 3, 4}
    assert len(list(log.batches(4, rows=10))) == 3 and len(list(log.batches(4, rows=0))) == 0


def test_ids_are_zipf_distributed():
    ids = collect(PlantedClickLog(Schema(categorical=[Categorical("c", 100)]), zipf=1.0), 40_000)[0]["sparse"]
    counts = np.sort(np.bincount(ids[:, 0], minlength=100))[::-1]
    assert counts[0] / counts[9] == pytest.approx(10.0, rel=0.3)


@pytest.mark.parametrize("schema", [Schema(dense=["x"]), Schema(categorical=[Categorical("c", 9)], weighted=True)])
def test_schemas_with_one_kind_of_column_work(schema):
    log = PlantedClickLog(schema, target_auc=0.6)
    schema.validate(next(log.batches(8))[0])
    assert log.best_auc == pytest.approx(0.6, abs=0.02)


def test_pairs_of_columns_carry_signal_that_no_sum_of_effects_has():
    log = PlantedClickLog(SCHEMA, seed=0)
    batch, _ = collect(log, 8000)
    p = log.probabilities(batch)
    logit = np.log(p / (1 - p))
    features = [batch["dense"], np.tanh(2 * batch["dense"]), np.maximum(np.abs(batch["dense"]) - 1, 0)]
    hot = (batch["sparse"][:, 1:5, None] == np.arange(30)).sum(1) / (batch["sparse"][:, 1:5] >= 0).sum(1)[:, None]
    features += [hot, *(np.eye(n)[batch["sparse"][:, i]] for i, n in ((0, 50), (5, 30), (6, 3)))]
    design = np.concatenate(features, axis=1)
    residual = logit - design @ np.linalg.lstsq(design, logit, rcond=None)[0]
    assert 0.02 < residual.var() / logit.var() < 0.3


def weighted_auc(scores, p):
    """AUC of scores in expectation over labels that are drawn from probabilities p."""
    return roc_auc_score(np.repeat([1, 0], len(p)), np.tile(scores, 2), sample_weight=np.concatenate([p, 1 - p]))


@pytest.mark.slow
@pytest.mark.parametrize("auc", [0.7, 0.8])
def test_terms_of_third_order_are_found_by_no_sum_of_functions_of_pairs(auc):
    sizes = {"a": 9, "b": 8, "c": 10}
    schema = Schema(dense=["x"], categorical=[Categorical(name, size) for name, size in sizes.items()])
    log = PlantedClickLog(schema, seed=0, order=3, target_auc=auc)
    batch, _ = collect(log, 40_000)
    p = log.probabilities(batch)
    logit, x, (a, b, c) = np.log(p / (1 - p)), batch["dense"].astype(float), batch["sparse"].T
    dense = [np.ones_like(x), x, np.tanh(2 * x), np.maximum(np.abs(x) - 1, 0)]
    second = np.concatenate([*dense, np.eye(72)[a * 8 + b], np.eye(80)[b * 10 + c], np.eye(90)[a * 10 + c]], axis=1)
    fitted = second @ np.linalg.lstsq(second, logit, rcond=None)[0]
    share = np.var(logit - fitted) / np.var(logit)
    assert 0.2 < share < 0.5
    assert log.best_auc == pytest.approx(auc, abs=0.01)
    assert weighted_auc(fitted, p) < weighted_auc(logit, p) - 0.02
    # With one function of all three columns, nothing is left: there are no terms of higher order.
    third = np.concatenate([*dense, np.eye(720)[a * 80 + b * 10 + c]], axis=1)
    assert np.abs(logit - third @ np.linalg.lstsq(third, logit, rcond=None)[0]).max() < 1e-6


@pytest.mark.slow
def test_logs_of_third_order_are_reproducible_and_say_so_where_they_are_written(tmp_path):
    log = PlantedClickLog(SCHEMA, seed=2, order=3)
    one, two = collect(log, 9000, 9000), collect(PlantedClickLog(SCHEMA, seed=2, order=3), 9000, 700)
    np.testing.assert_array_equal(one[1], two[1])
    second = PlantedClickLog(SCHEMA, seed=2)
    np.testing.assert_array_equal(one[0]["sparse"], collect(second, 9000)[0]["sparse"])  # the same rows, other clicks
    written = log.write(tmp_path / "log", {"test": 9000})
    expected = log.best("test", 9000)
    assert written.manifest["planted"]["order"] == 3 and written.best == pytest.approx(expected)
    assert "order" not in second.write(tmp_path / "second", {"test": 10}).manifest["planted"]


def test_written_directory_holds_the_rows_and_the_best_of_its_test_split(tmp_path):
    log = PlantedClickLog(SCHEMA, seed=4)
    written = log.write(tmp_path / "log", {"train": 1000, "valid": 0, "test": 2000})
    opened = data.open(tmp_path / "log")
    assert opened.splits == ("train", "valid", "test") and opened.best == written.best
    batch, label = collect(log, 2000, part="test")
    np.testing.assert_array_equal(opened.split("test").arrays()[0]["sparse"], batch["sparse"])
    np.testing.assert_array_equal(opened.split("test").arrays()[1], label)
    p = log.probabilities(batch)
    assert opened.best == pytest.approx(
        {
            "auc": expected_auc(p),
            "logloss": expected_logloss(p),
            "drawn_auc": roc_auc_score(label, p),
            "drawn_logloss": log_loss(label, p),
        }
    )
    assert opened.manifest["planted"]["seed"] == 4


def test_criteo_shape_has_criteos_tables():
    assert sum(criteo_shape().table_sizes.values()) == 33_762_577
    small = criteo_shape(1e-4)
    assert small.n_dense == 13 and len(small.categorical) == 26
    assert small.table_sizes["C3"] == 1013 and min(small.table_sizes.values()) == 3
    with pytest.raises(ValueError, match="scale=0"):
        criteo_shape(0)


def test_bad_settings_are_clear_errors():
    for arguments, message in [
        ({"click_rate": 0.0}, "click_rate=0.0"),
        ({"target_auc": 0.5}, "target_auc=0.5"),
        ({"zipf": -1.0}, "zipf=-1.0"),
        ({"order": 4}, "order=4"),
    ]:
        with pytest.raises(ValueError, match=message):
            PlantedClickLog(SCHEMA, **arguments)
    with pytest.raises(ValueError, match="no vocabulary_size"):
        PlantedClickLog(Schema(categorical=[Categorical("c")]))
    with pytest.raises(ValueError, match="order=3 multiplies three sparse columns; the schema has 1"):
        PlantedClickLog(Schema(categorical=[Categorical("c", 9)]), order=3)
    with pytest.raises(ValueError, match="not both"):
        PlantedClickLog(SCHEMA).batches(4, n_batches=1, rows=4)


@pytest.fixture(scope="module")
def first_rows():
    return collect(PlantedClickLog(SCHEMA, seed=2), 40_000)


@pytest.mark.slow
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=4), st.sampled_from([7, 700, 5000, 20_000]))
@settings(max_examples=10)
def test_a_batch_by_number_has_the_rows_of_all_batches_in_any_order(first_rows, numbers, size):
    expected, clicks = first_rows
    log = PlantedClickLog(SCHEMA, seed=2)
    for number in numbers:
        number %= 40_000 // size
        batch, label = log.batch(number, size)
        rows = slice(number * size, (number + 1) * size)
        assert all(np.array_equal(batch[name], values[rows]) for name, values in expected.items())
        assert np.array_equal(label, clicks[rows])
