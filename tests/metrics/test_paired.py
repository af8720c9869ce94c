"""The paired difference and its interval, against the sums that define them and against resampling."""

import numpy as np
import pytest
from scipy import stats

from keras_dlrm import metrics

pytestmark = pytest.mark.neutral


def two_models(n=600, decimals=1):
    random = np.random.default_rng(0)
    a, b = random.random(n), np.round(random.random(n), decimals)
    return random.random(n) < 0.6 * a + 0.4 * b, a, b


def test_differences_are_those_of_the_scores_and_intervals_those_of_the_bootstrap():
    labels, a, b = two_models()
    found, resampled = metrics.paired_difference(labels, a, b), metrics.paired_bootstrap(labels, a, b, 1500)
    for score in ("auc", "logloss"):
        one, other = found[score], resampled[score]
        assert one.difference == pytest.approx(other.difference, abs=1e-12)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.1 * (one.high - one.low))


def test_the_error_of_the_auc_is_that_of_delong_counted_pair_by_pair():
    labels, a, b = two_models(80)
    wins = []
    for values in (a, b):
        clicks, others = values[labels][:, None], values[~labels][None]
        wins.append((clicks > others) + 0.5 * (clicks == others))
    gained = wins[0] - wins[1]
    error = np.sqrt(gained.mean(1).var(ddof=1) / labels.sum() + gained.mean(0).var(ddof=1) / (~labels).sum())
    auc = metrics.paired_difference(labels, a, b)["auc"]
    student = stats.t.ppf(0.975, min(labels.sum(), (~labels).sum()) - 1)
    assert auc.high - auc.difference == pytest.approx(student * error, rel=1e-6)
    assert auc.difference == pytest.approx(gained.mean(), abs=1e-12)


def test_a_surer_interval_is_that_of_students_distribution_and_the_p_value_is_the_same():
    labels, a, b = two_models(60)
    plain, sure = metrics.paired_difference(labels, a, b), metrics.paired_difference(labels, a, b, confidence=0.99)
    freedom = min(labels.sum(), (~labels).sum()) - 1
    for score in ("auc", "logloss"):
        wider = (sure[score].high - sure[score].low) / (plain[score].high - plain[score].low)
        assert wider == pytest.approx(stats.t.ppf(0.995, freedom) / stats.t.ppf(0.975, freedom), rel=1e-4)
        assert (sure[score].difference, sure[score].p_value) == (plain[score].difference, plain[score].p_value)
    with pytest.raises(ValueError, match=r"paired_difference: confidence=1 must be a number in \[0, 1\)"):
        metrics.paired_difference(labels, a, b, confidence=1)


def test_either_of_two_scores_at_97_5_percent_tells_equal_models_apart_in_5_percent_of_all_cases():
    random, apart = np.random.default_rng(0), {0.95: 0, 0.975: 0}
    for _ in range(600):
        chance = random.beta(2, 2, 300)
        labels = random.random(300) < chance
        a, b = (np.clip(chance + random.normal(0, 0.1, 300), 0.01, 0.99) for _ in range(2))
        for confidence in apart:
            both = metrics.paired_difference(labels, a, b, confidence=confidence).values()
            apart[confidence] += any(difference.low > 0 or difference.high < 0 for difference in both)
    assert apart[0.975] <= 0.06 * 600 < apart[0.95]


@pytest.mark.parametrize("clicks", [1, 2, 3, 5, 20])
def test_few_clicks_are_rarely_taken_for_a_difference(clicks):
    random = np.random.default_rng(clicks)
    labels = np.arange(200) < clicks
    differences = [metrics.paired_difference(labels, random.random(200), random.random(200))["auc"] for _ in range(200)]
    assert np.mean([difference.low > 0 or difference.high < 0 for difference in differences]) <= 0.1


def test_weights_count_rows_and_labels_may_lie_between():
    labels, a, b = two_models()
    weights = np.random.default_rng(1).integers(0, 2, len(labels))
    some = weights > 0
    for one, other in zip(
        metrics.paired_difference(labels, a, b, 3.0 * weights).values(),
        metrics.paired_difference(labels[some], a[some], b[some]).values(), strict=True,
    ):  # fmt: skip
        assert one == pytest.approx(other)
    soft = np.where(labels, 0.75, 0.25)
    differences = metrics.paired_difference(soft, a, b, weights + 1)
    expected = [metrics.scores(soft, values, weights + 1) for values in (a, b)]
    resampled = metrics.paired_bootstrap(soft, a, b, 1500, weights=weights + 1)
    for score in ("auc", "logloss"):
        assert differences[score].difference == pytest.approx(expected[0][score] - expected[1][score], abs=1e-12)
        assert differences[score].difference == pytest.approx(resampled[score].difference, abs=1e-12)
        ends = differences[score].low, differences[score].high
        assert ends == pytest.approx((resampled[score].low, resampled[score].high), abs=0.1 * (ends[1] - ends[0]))


def test_equal_models_do_not_differ_and_better_ones_do():
    labels, a, b = two_models()
    assert metrics.paired_difference(labels, a, a)["auc"] == (0.0, 0.0, 0.0, 1.0)
    assert metrics.paired_difference(labels, a, 1 - a)["auc"].p_value < 1e-6
    with pytest.raises(ValueError, match="all labels are 1"):
        metrics.paired_difference([1, 1], [0.5, 0.1], [0.5, 0.2])
