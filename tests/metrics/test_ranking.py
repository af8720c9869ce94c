"""Scores of ranked lists, exact and streaming, against lists that are ranked one by one."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm import metrics

STREAMING = {"recall": metrics.RecallAtK, "ndcg": metrics.NDCG, "mrr": metrics.MeanReciprocalRank}
each = pytest.mark.parametrize(("name", "metric"), list(STREAMING.items()))


def ranked_one_by_one(relevance, scores, k, weights=None):
    """The three scores as their definitions say it, in plain Python; `None` where no list counts."""
    sums, total, lists = {"recall": 0.0, "ndcg": 0.0, "mrr": 0.0}, 0.0, 0
    for i, (grades, values) in enumerate(zip(relevance, scores, strict=True)):
        pairs = [(v, -g, g) for g, v in zip(grades, values, strict=True) if g >= 0]
        order = [g for _, _, g in sorted(pairs, reverse=True)]  # of equal scores the lower grade first
        weight = 1.0 if weights is None else weights[i]
        if not any(g > 0 for g in order) or weight == 0:
            continue
        first = next(place for place, g in enumerate(order, 1) if g > 0)
        gain, best = (
            sum(g / math.log2(1 + place) for place, g in enumerate(some[:k], 1)) for some in (order, sorted(order, reverse=True))
        )
        sums["recall"] += weight * sum(g > 0 for g in order[:k]) / sum(g > 0 for g in order)
        sums["ndcg"] += weight * gain / best
        sums["mrr"] += weight * (1 / first if first <= k else 0)
        total, lists = total + weight, lists + 1
    return {**{name: value / total for name, value in sums.items()}, "lists": lists} if lists else None


@st.composite
def lists(draw):
    b, n = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    relevance = draw(st.lists(st.lists(st.sampled_from([-1, 0, 0, 1, 2]), min_size=n, max_size=n), min_size=b, max_size=b))
    scores = draw(st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=b, max_size=b))
    weights = draw(st.lists(st.integers(0, 2), min_size=b, max_size=b))
    return np.array(relevance), np.array(scores) / 4, np.array(weights), draw(st.integers(1, 8))


@pytest.mark.neutral
@given(lists())
def test_scores_are_those_of_lists_ranked_one_by_one(drawn):
    relevance, scores, weights, k = drawn
    expected = ranked_one_by_one(relevance, scores, k, weights)
    if expected is None:
        with pytest.raises(ValueError, match="lists that count has a relevant item"):
            metrics.ranking_scores(relevance, scores, k, weights)
    else:
        assert metrics.ranking_scores(relevance, scores, k, weights) == pytest.approx(expected)


@pytest.mark.neutral
def test_ndcg_of_grades_is_that_of_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, the oracle, is not installed")
    random = np.random.default_rng(0)
    relevance, scores = random.integers(0, 4, (30, 12)), random.random((30, 12))
    relevance[:, 0] = 1
    expected = sklearn_metrics.ndcg_score(relevance, scores, k=5)
    assert metrics.ranking_scores(relevance, scores, 5)["ndcg"] == pytest.approx(expected)


@pytest.mark.neutral
def test_a_model_that_tells_nothing_apart_gains_nothing_from_where_the_relevant_item_stands():
    for place in (0, 5, 9):
        relevance = np.zeros((2, 10))
        relevance[:, place] = 1
        constant = metrics.ranking_scores(relevance, np.full((2, 10), 0.5), 5)
        assert constant == {"recall": 0.0, "ndcg": 0.0, "mrr": 0.0, "lists": 2}


@st.composite
def retrievals(draw):
    queries = draw(st.integers(1, 4))
    retrieved = [draw(st.permutations(range(8)))[:5] for _ in range(queries)]
    relevant = [draw(st.sets(st.integers(0, 11), max_size=6)) for _ in range(queries)]
    return np.array(retrieved), relevant, draw(st.integers(1, 5))


@pytest.mark.neutral
@given(retrievals())
def test_retrieved_ids_score_like_a_list_of_all_items_in_their_order(drawn):
    retrieved, relevant, k = drawn
    scores = np.full((len(retrieved), 12), -1.0)
    np.put_along_axis(scores, retrieved, -np.arange(5.0) + 10, axis=1)
    relevance = np.array([[item in some for item in range(12)] for some in relevant], int)
    expected = ranked_one_by_one(relevance, scores, k)
    padded = np.full((len(relevant), 6), -1)
    for row, some in zip(padded, relevant, strict=True):
        row[: len(some)] = sorted(some)
    for form in (relevant, [list(some) * 2 for some in relevant], padded):
        if expected is None:
            with pytest.raises(ValueError, match="lists that count has a relevant item"):
                metrics.retrieval_scores(retrieved, form, k)
        else:
            assert metrics.retrieval_scores(retrieved, form, k) == pytest.approx(expected)


@pytest.mark.neutral
def test_places_without_a_retrieved_item_are_misses():
    scored = metrics.retrieval_scores([[4, -1, -1], [-1, -1, -1]], [[4, 2], [7]], 3)
    assert scored == pytest.approx({"recall": 0.25, "ndcg": 0.5 / (1 + 1 / math.log2(3)), "mrr": 0.5, "lists": 2})


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.ranking_scores([1, 0], [0.1, 0.2], 1), r"relevance has shape \(2,\) .* give \(B, n\) both"),
        (lambda: metrics.ranking_scores([[1, 0]], [[0.1]], 1), r"scores have \(1, 1\)"),
        (lambda: metrics.ranking_scores([[1, -2]], [[0.1, 0.2]], 1), r"relevance\[0, 1\] is -2.0; it must be 0 or above"),
        (lambda: metrics.ranking_scores([[1, 0]], [[0.1, np.nan]], 1), r"scores\[0, 1\] is nan; it must be finite"),
        (lambda: metrics.ranking_scores([[1, 0]], [[0.1, 0.2]], 0), "k=0 must be an integer >= 1"),
        (lambda: metrics.ranking_scores([[1, 0]], [[0.1, 0.2]], 1, [1, 1]), "1 lists but 2 weights"),
        (lambda: metrics.retrieval_scores([[1.5]], [[1]], 1), r"retrieved is float64 of shape \(1, 1\)"),
        (lambda: metrics.retrieval_scores([[1, 2]], [], 1), "relevant has 0 entries"),
        (lambda: metrics.retrieval_scores([[1, 2]], [[1]], 3), "k=3 is more than the 2 retrieved ids of a query; retrieve k"),
        (lambda: metrics.retrieval_scores([[1, 2]], [[1.5]], 1), r"relevant\[0\] is float64 of shape \(1,\); give integers"),
        (lambda: metrics.retrieval_scores([[1, 2]], [["1"]], 1), r"relevant\[0\] is <U1"),
        (lambda: metrics.retrieval_scores([[1, 2], [3, 3]], [[1], [1]], 2), r"retrieved\[1\] has an id twice: \[3, 3\]"),
    ],
)
def test_bad_lists_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.neutral
def test_large_ids_of_any_integer_type_are_told_apart():
    ids = np.uint64(2**63) + np.arange(3, dtype=np.uint64)
    assert metrics.retrieval_scores(ids[None, :2], [ids[1:].tolist()], 2)["recall"] == 0.5


def example(b=60, n=7):
    random = np.random.default_rng(0)
    relevance = random.choice([-1, 0, 0, 0, 1, 2], (b, n)).astype("float32")
    return relevance, random.integers(0, 5, (b, n)).astype("float32") / 4, random.integers(0, 3, b).astype("float32")


@each
@pytest.mark.parametrize("k", [1, 3, 20])
def test_streaming_batches_add_up_to_the_exact_score(name, metric, k):
    relevance, scores, weights = example()
    streaming = metric(k)
    assert float(streaming.result()) == 0.0
    for start in range(0, 60, 25):
        part = slice(start, start + 25)
        streaming.update_state(relevance[part], scores[part], sample_weight=weights[part, None])
    assert float(streaming.result()) == pytest.approx(metrics.ranking_scores(relevance, scores, k, weights)[name], rel=1e-5)
    streaming.reset_state()
    streaming.update_state(relevance.astype("int32"), scores, sample_weight=0.5)
    assert float(streaming.result()) == pytest.approx(metrics.ranking_scores(relevance, scores, k)[name], rel=1e-5)


@pytest.mark.slow
@each
@pytest.mark.parametrize("compiled", [False, True])
def test_evaluate_reports_the_metric(name, metric, compiled):
    if compiled and keras.backend.backend() == "torch":
        pytest.skip("torch compiles only with a C++ compiler at hand; its eager mode is the test of torch")
    relevance, scores, weights = example()
    inputs = keras.Input((7,))
    model = keras.Model(inputs, inputs)
    model.compile(loss="mse", weighted_metrics=[metric(3, name="m")], jit_compile=compiled, run_eagerly=not compiled)
    result = model.evaluate(scores, relevance, sample_weight=weights, batch_size=25, verbose=0, return_dict=True)
    assert result["m"] == pytest.approx(metrics.ranking_scores(relevance, scores, 3, weights)[name], rel=1e-5)


@each
def test_nan_stays_nan_unless_its_place_has_no_item(name, metric):
    streaming = metric(2)
    streaming.update_state(np.array([[0, 1, -1]]), np.array([[0.1, 0.3, np.nan]]))
    assert float(streaming.result()) == 1.0
    streaming.update_state(np.array([[0, 1, 0]]), np.array([[0.1, 0.3, np.nan]]))
    assert np.isnan(float(streaming.result()))
    streaming.reset_state()
    streaming.update_state(np.array([[np.nan, 0.0, -1.0]]), np.array([[0.1, 0.3, 0.2]]))
    assert np.isnan(float(streaming.result()))


@each
def test_lists_of_one_item_and_other_shapes_are_refused(name, metric):
    for labels, scores in [((4,), (4,)), ((4, 1), (4, 1)), ((4, 3), (4, 2)), ((4, 3), (5, 3))]:
        with pytest.raises(ValueError, match=r"m: y_true has shape .* give \(B, n\) both"):
            metric(2, name="m").update_state(np.ones(labels), np.ones(scores))
    with pytest.raises(ValueError, match=r"m: sample_weight has shape \(4, 3\); give one weight a list"):
        metric(2, name="m").update_state(np.ones((4, 3)), np.ones((4, 3)), sample_weight=np.ones((4, 3)))
    with pytest.raises(ValueError, match=f"{metric.__name__}: k=0 must be an integer >= 1"):
        metric(0)


@each
def test_ranking_metrics_round_trip_through_their_config(name, metric):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric(5)))
    assert type(again) is metric and again.k == 5 and again.name == metric(5).name
