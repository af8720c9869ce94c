"""The exact scores, against brute force, scikit-learn and properties that must hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm import metrics

pytestmark = pytest.mark.neutral


def brute_force_auc(labels, values):
    positive, negative = values[labels == 1], values[labels == 0]
    won = (positive[:, None] > negative).sum() + 0.5 * (positive[:, None] == negative).sum()
    return won / (len(positive) * len(negative))


@st.composite
def rows(draw, decimals=2):
    n = draw(st.integers(2, 40))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    labels[:2] = 0, 1
    values = np.array(draw(st.lists(st.integers(0, 10**decimals), min_size=n, max_size=n))) / 10**decimals
    return labels, values


@given(rows())
def test_auc_equals_comparing_all_pairs_with_ties_counting_half(data):
    labels, values = data
    assert metrics.auc(labels, values) == pytest.approx(brute_force_auc(labels, values), abs=1e-12)


@given(rows())
def test_auc_sees_only_the_order_and_mirrors_when_labels_or_scores_turn(data):
    labels, values = data
    area = metrics.auc(labels, values)
    assert metrics.auc(labels, 3 * values - 7) == pytest.approx(area, abs=1e-12)
    assert metrics.auc(labels, -values) == pytest.approx(1 - area, abs=1e-12)
    assert metrics.auc(1 - labels, values) == pytest.approx(1 - area, abs=1e-12)


@given(rows(), st.integers(1, 12), st.randoms())
def test_reliability_does_not_depend_on_the_order_of_the_rows_and_keeps_totals(data, bins, random):
    labels, values = data
    points = metrics.reliability(labels, values, bins)
    assert len(points.rows) <= bins
    assert points.rows.sum() == len(labels)
    assert np.dot(points.rows, points.predicted) == pytest.approx(values.sum())
    assert np.dot(points.rows, points.observed) == pytest.approx(labels.sum())
    assert (np.diff(points.predicted) > 0).all()
    shuffled = list(range(len(labels)))
    random.shuffle(shuffled)
    for first, second in zip(points, metrics.reliability(labels[shuffled], values[shuffled], bins), strict=True):
        np.testing.assert_array_equal(first, second)


def test_scores_agree_with_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, the oracle, is not installed")
    rng = np.random.default_rng(0)
    values = np.round(rng.beta(1, 4, 5000), 3).clip(0.001, 0.999)
    labels = (rng.random(5000) < values).astype(int)
    assert metrics.auc(labels, values) == pytest.approx(sklearn_metrics.roc_auc_score(labels, values), abs=1e-12)
    assert metrics.log_loss(labels, values) == pytest.approx(sklearn_metrics.log_loss(labels, values), abs=1e-12)
    base = np.full(5000, labels.mean())
    expected = sklearn_metrics.log_loss(labels, values) / sklearn_metrics.log_loss(labels, base)
    assert metrics.normalized_entropy(labels, values) == pytest.approx(expected, abs=1e-12)


def test_scores_bundles_the_single_scores():
    rng = np.random.default_rng(1)
    values = rng.random(300)
    labels = rng.random(300) < values
    assert metrics.scores(labels, values[:, None]) == {
        "auc": metrics.auc(labels, values),
        "logloss": metrics.log_loss(labels, values),
        "ne": metrics.normalized_entropy(labels, values),
        "calibration": metrics.calibration(labels, values),
        "ece": metrics.expected_calibration_error(labels, values),
    }


def test_reliability_bins_hold_equal_numbers_of_rows_without_ties():
    rng = np.random.default_rng(2)
    values = rng.random(1000) ** 4
    assert metrics.reliability(rng.random(1000) < 0.5, values, 8).rows.tolist() == [125] * 8


def test_expected_calibration_error_is_the_shift_of_a_model_that_is_off_everywhere():
    labels = np.tile([0, 0, 0, 1], 100)
    assert metrics.expected_calibration_error(labels, np.full(400, 0.25)) == 0
    assert metrics.expected_calibration_error(labels, np.full(400, 0.35)) == pytest.approx(0.1)


def test_log_loss_clips_certain_predictions_at_epsilon():
    assert metrics.log_loss([1], [0.0]) == pytest.approx(-np.log(1e-7))
    assert metrics.log_loss([0], [1.0]) == pytest.approx(-np.log(1e-7))
    assert metrics.log_loss([1], [0.0], epsilon=0) == np.inf
    assert metrics.log_loss([0, 1], [0.0, 1.0], epsilon=0) == 0


@given(rows(), st.integers(1, 4))
def test_grouped_auc_equals_the_weighted_mean_over_groups_with_both_classes(data, n_groups):
    labels, values = data
    groups = np.arange(len(labels)) // 2 % n_groups
    areas, weights = [], []
    for group in range(n_groups):
        inside = groups == group
        if 0 < labels[inside].sum() < inside.sum():
            areas.append(brute_force_auc(labels[inside], values[inside]))
            weights.append(inside.sum())
    assert metrics.grouped_auc(labels, values, groups) == pytest.approx(np.average(areas, weights=weights), abs=1e-12)


@given(rows(), st.integers(1, 4), st.data())
def test_weights_and_soft_labels_of_grouped_auc_count_as_rows(data, n_groups, drawn):
    labels, values = data
    weights = np.array(drawn.draw(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels))))
    weights[:2] = 1
    groups = np.arange(len(labels)) // 2 % n_groups
    repeated = metrics.grouped_auc(*(np.repeat(array, weights) for array in (labels, values, groups)))
    assert metrics.grouped_auc(labels, values, groups, weights) == pytest.approx(repeated, abs=1e-12)
    soft = metrics.grouped_auc([0.5, *labels], [0.3, *values], [0, *groups])
    split = metrics.grouped_auc([0, 1, *labels], [0.3, 0.3, *values], [0, 0, *groups], [0.5, 0.5, *np.ones(len(labels))])
    assert soft == pytest.approx(split, abs=1e-12)


def test_grouped_auc_takes_strings_and_equals_auc_for_one_group():
    rng = np.random.default_rng(3)
    labels, values = rng.random(50) < 0.4, rng.random(50)
    assert metrics.grouped_auc(labels, values, ["u"] * 50) == pytest.approx(metrics.auc(labels, values))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.auc([0, 1], [0.5]), r"auc: 2 labels but 1 scores; give one of each per example"),
        (lambda: metrics.auc([0, 2], [0.5, 0.5]), r"labels\[1\] is 2; labels must be 0 or 1"),
        (lambda: metrics.auc([0, np.nan], [0.5, 0.5]), r"labels\[1\] is nan; labels must be 0 or 1"),
        (lambda: metrics.auc([0, 1], [0.5, np.nan]), r"scores\[1\] is nan; it must be finite"),
        (lambda: metrics.auc([1, 1], [0.5, 0.2]), r"all 2 labels are 1; it is defined only where both 0 and 1 occur"),
        (lambda: metrics.auc([], []), r"labels is empty"),
        (lambda: metrics.auc([[0, 1]], [0.5, 0.2]), r"labels has shape \(1, 2\); it must be \(n,\) or \(n, 1\)"),
        (lambda: metrics.auc(["a", "b"], [0.5, 0.2]), r"labels has dtype .*; it must be numeric"),
        (lambda: metrics.log_loss([0, 1], [0.5, 1.5]), r"probabilities\[1\] is 1.5; .* apply a sigmoid to logits"),
        (lambda: metrics.log_loss([0, 1], [0.5, 0.5], epsilon=0.5), r"epsilon=0.5 must be in \[0, 0.5\)"),
        (lambda: metrics.normalized_entropy([0, 0], [0.5, 0.5]), r"normalized_entropy: all 2 labels are 0"),
        (lambda: metrics.calibration([0, 0], [0.5, 0.5]), r"calibration: none of the 2 labels is 1"),
        (lambda: metrics.scores([0, 1], [0.5, -0.1]), r"scores: probabilities\[1\] is -0.1"),
        (lambda: metrics.reliability([0, 1], [0.5, 0.1], bins=0), r"bins=0 must be an integer >= 1"),
        (lambda: metrics.expected_calibration_error([0, 1], [0.5, 0.1], bins=2.5), r"bins=2.5 must be an integer"),
        (lambda: metrics.grouped_auc([0, 1], [0.5, 0.1], ["u"]), r"groups has shape \(1,\); give one group per row"),
        (lambda: metrics.grouped_auc([0, 1], [0.5, 0.1], ["u", None]), "groups holds values of the types .* which have no order"),
        (lambda: metrics.grouped_auc([0, 1], [0.5, 0.1], ["u", "v"]), r"none of the 2 groups has both"),
        (lambda: metrics.paired_bootstrap([0, 1], [0.5, 0.1], [0.5, 7]), r"probabilities \(probs_b\)\[1\] is 7.0"),
        (lambda: metrics.paired_bootstrap([0, 1], [0.5], [0.5, 0.1]), r"2 labels but 1 probabilities \(probs_a\)"),
        (lambda: metrics.paired_bootstrap([0, 1], [0.5, 0], [0.5, 0.1], samples=0), r"samples=0 must be an integer"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_paired_bootstrap_of_equal_models_finds_no_difference():
    rng = np.random.default_rng(4)
    values = rng.random(400)
    result = metrics.paired_bootstrap(rng.random(400) < values, values, values, samples=50)
    assert result["auc"] == result["logloss"] == (0.0, 0.0, 0.0, 1.0)


def test_paired_bootstrap_is_antisymmetric_and_repeats_with_its_seed():
    rng = np.random.default_rng(5)
    a, b = rng.random(300), np.round(rng.random(300), 1)
    labels = rng.random(300) < 0.5 * (a + b)
    forth, back = metrics.paired_bootstrap(labels, a, b, 60), metrics.paired_bootstrap(labels, b, a, 60)
    assert forth == metrics.paired_bootstrap(labels, a, b, 60)
    assert forth != metrics.paired_bootstrap(labels, a, b, 60, seed=1)
    for name, score in (("auc", metrics.auc), ("logloss", metrics.log_loss)):
        assert forth[name].difference == pytest.approx(score(labels, a) - score(labels, b), abs=1e-12)
        assert forth[name].low == pytest.approx(-back[name].high)
        assert forth[name].p_value == back[name].p_value


def test_paired_bootstrap_interval_of_log_loss_matches_the_normal_theory_of_a_mean():
    rng = np.random.default_rng(6)
    a, b = rng.uniform(0.2, 0.8, (2, 2000))
    labels = rng.random(2000) < a
    loss = -np.log(np.where(labels, a, 1 - a)) + np.log(np.where(labels, b, 1 - b))
    result = metrics.paired_bootstrap(labels, a, b, samples=2000)["logloss"]
    half = 1.96 * loss.std() / np.sqrt(2000)
    assert (result.low, result.high) == pytest.approx((loss.mean() - half, loss.mean() + half), abs=0.12 * half)


def test_paired_bootstrap_draws_again_when_a_resample_has_one_class():
    labels = np.array([1, 0, 0, 0])
    result = metrics.paired_bootstrap(labels, [0.9, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4], samples=200)
    assert result["auc"] == (1.0, 1.0, 1.0, pytest.approx(2 / 201))


@pytest.mark.slow
def test_paired_bootstrap_of_100k_rows_finds_a_large_difference():
    rng = np.random.default_rng(7)
    a, b = rng.random((2, 100_000))
    found = metrics.paired_bootstrap(rng.random(100_000) < a, a, b, samples=100)
    assert 0.3 < found["auc"].low < found["auc"].difference < found["auc"].high < 0.36
