"""Lift, and the distribution of predictions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm import metrics

pytestmark = pytest.mark.neutral


def test_lift_and_gain_of_deciles_are_those_counted_by_hand():
    labels = [1] * 5 + [0] * 5 + [1] * 2 + [0] * 8 + [0] * 19 + [1]
    found = metrics.lift(labels, np.linspace(0.9, 0.1, 40), bins=4)
    # 8 clicks in 40 rows: the bins of 10 rows have 5, 2, 0 and 1 of them.
    np.testing.assert_allclose(found.lift, [0.5 / 0.2, 0.2 / 0.2, 0, 0.1 / 0.2])
    np.testing.assert_allclose(found.gain, [5 / 8, 7 / 8, 7 / 8, 1])
    np.testing.assert_allclose(found.reached, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.observed, [0.5, 0.2, 0, 0.1])


def test_weights_count_as_repeated_rows():
    random = np.random.default_rng(0)
    labels, probabilities, weights = random.integers(0, 2, 50), random.random(50), np.full(50, 3)
    for one, other in zip(metrics.lift(labels, probabilities, 5, weights), metrics.lift(labels, probabilities, 5), strict=True):
        np.testing.assert_allclose(one, other)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=60), st.integers(1, 12))
def test_gain_rises_to_one_and_the_mean_lift_is_one(rows, bins):
    labels = np.array([True, *(label for label, _ in rows)])
    found = metrics.lift(labels, [0.5, *(value / 10 for _, value in rows)], bins)
    assert found.gain[-1] == found.reached[-1] == 1 and (np.diff(found.gain) >= -1e-12).all()
    assert (np.diff(found.predicted) < 0).all()
    assert np.dot(found.lift, np.diff(found.reached, prepend=0)) == pytest.approx(1)


def test_lift_without_a_click_is_refused():
    with pytest.raises(ValueError, match="lift: no label is above 0"):
        metrics.lift([0, 0], [0.1, 0.2])


def test_the_distribution_of_each_class_is_its_histogram_in_log_odds():
    random = np.random.default_rng(0)
    probabilities = random.beta(1, 9, 5000)
    labels = random.random(5000) < probabilities
    found = metrics.score_distribution(labels, probabilities, 25)
    assert len(found.edges) == 26
    odds = np.log(found.edges / (1 - found.edges))
    np.testing.assert_allclose(np.diff(odds), odds[1] - odds[0])
    for shares, values in ((found.clicks, probabilities[labels]), (found.others, probabilities[~labels])):
        assert shares.sum() == pytest.approx(1)
        inside = [((values >= low) & (values < high)).mean() for low, high in zip(found.edges, found.edges[1:], strict=False)]
        np.testing.assert_allclose(shares, inside, atol=2 / len(values))


@pytest.mark.parametrize("probabilities", [[0.0, 1.0, 1.0], [0.3, 0.3, 0.3], [0.0, 0.0, 0.0]])
def test_certain_and_constant_predictions_have_a_distribution(probabilities):
    found = metrics.score_distribution([0, 1, 1], probabilities)
    assert np.isfinite(found.edges).all() and (np.diff(found.edges) > 0).all()
    assert found.clicks.sum() == pytest.approx(1) and found.others.sum() == pytest.approx(1)


def test_weights_and_soft_labels_enter_the_distribution():
    found = metrics.score_distribution([0.25, 1, 0], [0.1, 0.9, 0.9], 2, [4, 1, 1])
    np.testing.assert_allclose(found.clicks, [0.5, 0.5])
    np.testing.assert_allclose(found.others, [0.75, 0.25])
    assert not metrics.score_distribution([0, 0], [0.1, 0.9]).clicks.any()


def test_bins_must_be_at_least_one():
    with pytest.raises(ValueError, match="score_distribution: bins=0 must be an integer >= 1"):
        metrics.score_distribution([0, 1], [0.1, 0.9], 0)
