"""Scores of retrieval among all items, against a sort of all scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dlrm.metrics import retrieval_scores
from keras_dlrm.retrieval import best_items, evaluate, evaluation

pytestmark = pytest.mark.neutral


def by_sort(users, items, k, seen):
    """Rows of the k best items: of equal scores the lowest row first, and no seen ones."""
    rows = []
    for user, hidden in zip(users, seen, strict=True):
        order = sorted((row for row in range(len(items)) if row not in hidden), key=lambda row: (-float(user @ items[row]), row))
        rows.append((order + [-1] * k)[:k])
    return rows


@pytest.mark.slow
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_the_best_items_are_those_of_a_sort_with_ties_and_in_parts_of_any_size(seed, n, k, part):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(-1, 2, (7, 3)), rng.integers(-1, 2, (n, 3))  # small whole numbers: many ties
    seen = [set(rng.integers(0, n, rng.integers(0, n + 2)).tolist()) for _ in users]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_USERS", 3)
        patch.setattr(evaluation, "_ITEMS", part)
        rows, scores = best_items(users, items, k, seen)
    assert rows.tolist() == by_sort(users, items, k, seen)
    products = users @ items.T
    for user, (row, score) in enumerate(zip(rows, scores, strict=True)):
        np.testing.assert_array_equal(score, [products[user, r] if r >= 0 else -np.inf for r in row])


def test_scores_are_those_of_the_lists_and_of_how_often_items_are_in_them():
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(9, 4)), rng.normal(size=(20, 4))
    relevant = [set(rng.integers(0, 20, 3).tolist()) for _ in users]
    relevant[4] = set()  # not asked for
    seen = [set(rng.integers(0, 20, 5).tolist()) - some for some in relevant]
    popularity = rng.integers(1, 50, 20)
    got = evaluate(users, items, relevant, 5, seen, popularity)
    kept = [i for i in range(9) if i != 4]
    lists = by_sort(users[kept].astype("f4"), items.astype("f4"), 5, [seen[i] for i in kept])
    for name, value in retrieval_scores(lists, [relevant[i] for i in kept], 5).items():
        assert got[name] == pytest.approx(value)
    times = np.bincount(np.ravel(lists), minlength=20)
    assert got["coverage"] == (times > 0).mean()
    differences = np.abs(times[:, None] - times[None]).sum() / (2 * 20 * times.sum())
    assert got["gini"] == pytest.approx(differences)
    assert got["popularity"] == pytest.approx(popularity[np.array(lists)].mean())
    assert "popularity" not in evaluate(users, items, relevant, 5)


def test_a_user_who_has_seen_all_items_gets_none():
    rows, scores = best_items(np.ones((1, 2)), np.ones((3, 2)), 5, [[0, 1, 2]])
    assert rows.tolist() == [[-1] * 5] and (scores == -np.inf).all()
    got = evaluate(np.ones((2, 2)), np.ones((3, 2)), [[0], [1]], 2, [[0, 1, 2], []], [4, 2, 9])
    assert got["recall"] == 0.5 and got["popularity"] == 3.0
    got = evaluate(np.ones((1, 2)), np.ones((3, 2)), [[0]], 2, [[0, 1, 2]], [4, 2, 9])
    assert got["recall"] == got["popularity"] == 0.0


U, V = np.ones((2, 3)), np.ones((4, 3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: best_items(U, V, 0), ["k=0"]),
        (lambda: best_items(U[0], V, 1), ["users", "(3,)"]),
        (lambda: best_items(U, V[:, :2], 1), ["width 3", "2"]),
        (lambda: best_items(U * np.nan, V, 1), ["users[0]", "not finite"]),
        (lambda: best_items(U, V, 1, [[]]), ["seen has 1 entries", "2 users"]),
        (lambda: best_items(U, V, 1, [[], [4]]), ["seen[1]", "row 4", "4 items"]),
        (lambda: evaluate(U, V, [[1]]), ["(2, 3)", "1 entries"]),
        (lambda: evaluate(U, V, [[], []]), ["none of the 2 users"]),
        (lambda: evaluate(U, V, [[9], []]), ["relevant[0]", "row 9"]),
        (lambda: evaluate(U, V, [[1], []], popularity=[1, 2]), ["popularity", "(2,)", "4 items"]),
        (lambda: evaluate(U, V, [[1], []], popularity=list("abcd")), ["popularity=['a'", "4 items"]),
        (lambda: evaluate(U, V, [[1], [2]], seen=[[]]), ["seen has 1 entries", "2 users"]),
        (lambda: evaluate(U, V, [[1], []], seen=[[]] * 5), ["seen has 5 entries", "2 users"]),
        (lambda: evaluate(U, V, [["a"], []]), ["relevant", "whole numbers"]),
        (lambda: evaluate(U, V, [[1], []], seen=[[1.7], []]), ["seen", "whole numbers"]),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("relevant", [[1, 0], np.array([1, 0]), None, ["ab", [1]]])
def test_rows_that_are_no_lists_are_refused(relevant):
    with pytest.raises(TypeError, match="relevant.*list of rows for each user"):
        evaluate(U, V, relevant)
