"""Scores by slice, and bands of frequent and rare ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm import metrics

pytestmark = pytest.mark.neutral

SCORES = ("auc", "logloss", "ne", "calibration")


def rows(n=600, seed=0):
    random = np.random.default_rng(seed)
    probabilities = random.beta(1, 3, n)
    return random.random(n) < probabilities, probabilities


def test_a_slice_has_the_scores_of_its_rows_alone():
    labels, probabilities = rows()
    country = np.random.default_rng(1).choice(["fr", "de", "it"], len(labels), p=[0.6, 0.3, 0.1])
    found = metrics.scores_by_slice(labels, probabilities, country)
    assert [row["value"] for row in found] == ["fr", "de", "it"]
    for row in found:
        inside = country == row["value"]
        own = metrics.scores(labels[inside], probabilities[inside])
        assert {name: row[name] for name in SCORES} == {name: own[name] for name in SCORES}
        assert row["rows"] == inside.sum() and row["click_rate"] == pytest.approx(labels[inside].mean())
        assert row["predicted"] == pytest.approx(probabilities[inside].mean())


@pytest.mark.parametrize("values", [
    np.array(["a", "b", "a", "a"], object), np.array([True, False, True, True]), np.array([2.5, 1, 2.5, 2.5]),
    np.array(["2024-01-02", "2024-01-01", "2024-01-02", "2024-01-02"], "datetime64[D]"),
])  # fmt: skip
def test_values_may_be_anything_that_sorts(values):
    found = metrics.scores_by_slice([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], values)
    assert [row["value"] for row in found] == [values[0], values[1]] and [row["rows"] for row in found] == [3, 1]


def test_a_slice_of_one_class_has_the_scores_that_are_defined():
    clicks, none = metrics.scores_by_slice([1, 1, 1, 0, 0], [0.5, 0.25, 0.75, 0.5, 0.25], [7, 7, 7, 3, 3])
    assert clicks["auc"] is clicks["ne"] is clicks["auc_error"] is None and clicks["calibration"] == pytest.approx(1.5 / 3)
    assert clicks["logloss"] == pytest.approx(-np.log([0.5, 0.25, 0.75]).mean())
    assert none["auc"] is none["ne"] is none["calibration"] is None
    assert none["logloss"] == pytest.approx(-np.log([0.5, 0.75]).mean())


def test_rare_values_share_the_last_slice():
    labels, probabilities = rows(100)
    values = np.repeat([5, 1, 9, 2], [50, 30, 15, 5])
    *_, others = metrics.scores_by_slice(labels, probabilities, values, most=2)
    assert (others["value"], others["values"], others["rows"]) == (None, 2, 20)
    rest = metrics.scores(labels[80:], probabilities[80:])
    assert others["logloss"] == rest["logloss"]


def test_a_row_counts_once_for_each_id_of_its_list():
    labels, probabilities = [0, 1, 0, 1], [0.1, 0.6, 0.3, 0.4]
    found = metrics.scores_by_slice(labels, probabilities, [[1, 1, 2], [2, -1, -1], [-1, -1, -1], [1, -1, 1]])
    assert {row["value"]: row["rows"] for row in found} == {1: 2, 2: 2, -1: 1}
    assert next(row for row in found if row["value"] == 2)["predicted"] == pytest.approx((0.1 + 0.6) / 2)
    others = metrics.scores_by_slice(labels, probabilities, [[1, 2, 3], [1, 3, 2], [1, -1, -1], [1, -1, -1]], most=1)[-1]
    assert (others["values"], others["rows"]) == (2, 2)


def test_rows_count_what_their_weights_say():
    labels, probabilities = rows()
    weights = np.random.default_rng(2).integers(0, 4, len(labels))
    slices = np.arange(len(labels)) % 3
    weighted = metrics.scores_by_slice(labels, probabilities, slices, weights)
    repeated = metrics.scores_by_slice(*(np.repeat(values, weights) for values in (labels, probabilities, slices)))
    by_value = {row["value"]: row for row in repeated}
    for row in weighted:
        for name in (*SCORES, "click_rate", "predicted"):
            assert row[name] == pytest.approx(by_value[row["value"]][name])


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(1, 5), st.randoms())
def test_slices_divide_the_rows_and_do_not_depend_on_their_order(values, most, random):
    labels, probabilities = rows(len(values))
    found = metrics.scores_by_slice(labels, probabilities, values, most=most)
    assert sum(row["rows"] for row in found) == len(values)
    assert sum(row["values"] for row in found) == len(set(values))
    assert sum(row["rows"] * row["click_rate"] for row in found) == pytest.approx(labels.sum())
    order = list(range(len(values)))
    random.shuffle(order)
    again = metrics.scores_by_slice(labels[order], probabilities[order], np.array(values)[order], most=most)
    for one, other in zip(found, again, strict=True):
        assert one == pytest.approx(other)


def test_the_interval_of_an_auc_holds_the_true_one_about_as_often_as_it_says():
    inside = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        scores = np.concatenate([random.normal(1, 1, 40), random.normal(0, 1, 60)])
        row = metrics.scores_by_slice([1] * 40 + [0] * 60, 1 / (1 + np.exp(-scores)), np.zeros(100))[0]
        inside.append(abs(row["auc"] - 0.76025) <= row["auc_error"])  # Phi(1 / sqrt(2))
    assert 0.9 < np.mean(inside) < 0.99


def test_an_auc_of_one_in_few_rows_is_not_certain():
    labels = [0, 0, *[1] * 500]
    assert metrics.scores_by_slice(labels, np.linspace(0.1, 0.9, 502), np.zeros(502))[0]["auc_error"] > 0.15


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slices": [1]}, r"slices is int64 of shape \(1,\); give one value per row, \(2,\)"),
        ({"slices": [["a"], ["b"]]}, r"or lists of ids, integers \(2, k\)"),
        ({"slices": ["a", None]}, r"slices holds values of the types \['NoneType', 'str'\], which have no order; fill in"),
        ({"most": 0}, "most=0 must be an integer >= 1"),
        ({"probabilities": [0.1, 2]}, r"probabilities\[1\] is 2.0"),
        ({"weights": [1, -1]}, r"weights\[1\] is -1.0"),
    ],
)
def test_bad_arguments_of_slices_are_named(change, words):
    with pytest.raises(ValueError, match=f"scores_by_slice: .*{words}"):
        metrics.scores_by_slice(**{"labels": [0, 1], "probabilities": [0.1, 0.2], "slices": [1, 2], **change})


def test_bands_have_a_quarter_a_half_and_a_quarter_of_the_exposures():
    # Exposures before each id: 0, 20, 40, 55, 70, then ten ids of 2 each from 80 to 100.
    counts = [20, 20, 15, 15, 10, *[2] * 10, 0]
    assert metrics.frequency_bands(counts).tolist() == [0, 0, 1, 1, 1, *[2] * 10, 3]
    assert metrics.frequency_bands([600, 400]).tolist() == [0, 1]
    assert metrics.frequency_bands([0, 0]).tolist() == [3, 3]
    assert metrics.frequency_bands(np.empty(0, int)).tolist() == []


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_bands_follow_the_counts(counts):
    bands = metrics.frequency_bands(counts)
    assert ((bands == 3) == (np.array(counts) == 0)).all()
    order = np.argsort(counts)[::-1]
    assert (np.diff(bands[order]) >= 0).all()
    assert len({(count, band) for count, band in zip(counts, bands.tolist(), strict=True)}) == len(set(counts))


@pytest.mark.parametrize(
    ("counts", "shares", "words"),
    [
        ([-1, 2], (0.25, 0.75), "of at least 0"),
        ([0.5], (0.25, 0.75), "counts is float64"),
        ([1], (0.8, 0.2), r"shares=\(0.8, 0.2\) must be two numbers"),
    ],
)
def test_bad_counts_are_named(counts, shares, words):
    with pytest.raises(ValueError, match=words):
        metrics.frequency_bands(counts, shares)
