"""Exact scores of ranked lists in NumPy: recall, NDCG and reciprocal rank of the first k places."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from keras_dlrm.metrics.validation import row_weights
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.support.arguments import integer


def ranking_scores(relevance: Any, scores: Any, k: int, weights: Any = None) -> dict[str, float]:
    """Scores of lists whose items all have a score: an impression's items, or one relevant item among sampled others.

    Among items of equal score the less relevant ones come first: a model that tells nothing apart gains nothing from where
    a list has its relevant items. Lists without a relevant item are left out.

    Args:
        relevance: 0 or 1, or grades above, (B, n); -1 marks places without an item, which fill up shorter lists.
        scores: Scores, (B, n); only their order within a list matters. Those of places without an item are not read.
        k: Places at the top that count, at least 1; all where a list has fewer.
        weights: What each list counts, finite and at least 0, (B,) or (B, 1); 1 each by default.

    Returns:
        Means over the lists, and how many these are:

        - `recall`: share of the relevant items (above 0) that are in the first k places. With one relevant item in each list it
          is the hit rate HR@k.
        - `ndcg`: Σ relevance / log2(1 + place) of the first k places, over that of the best possible order. For gains of
          2^grade - 1 give these as relevance.
        - `mrr`: 1 / place of the first relevant item, or 0 where it is not in the first k places.
        - `lists`: number of lists with a relevant item and a weight above 0.

    Raises:
        ValueError: bad shapes or values, or no list has a relevant item.

    Example:

    >>> scored = ranking_scores([[1, 0, 0], [0, 0, 1]], [[0.9, 0.1, 0.2], [0.3, 0.8, 0.7]], k=2)
    >>> {name: round(value, 3) for name, value in scored.items()}
    {'recall': 1.0, 'ndcg': 0.815, 'mrr': 0.75, 'lists': 2}

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 20, 2002 (NDCG); Voorhees, The
    TREC-8 Question Answering Track Report, 1999 (reciprocal rank).
    """
    k = integer("ranking_scores", "k", k)
    gains, values = np.asarray(relevance).astype(np.float64), np.asarray(scores).astype(np.float64)
    if gains.ndim != 2 or gains.shape != values.shape or not gains.size:
        raise ValueError(
            f"ranking_scores: relevance has shape {gains.shape} and scores have {values.shape}; give (B, n) both, one list a row."
        )
    item = gains != PADDING
    _check("ranking_scores", "relevance", gains, item & ~(np.isfinite(gains) & (gains >= 0)), "0 or above, or -1 for no item")
    _check("ranking_scores", "scores", values, item & ~np.isfinite(values), "finite")
    order = np.lexsort((gains, -values, ~item))
    ranked = np.take_along_axis(np.where(item, gains, 0.0), order, axis=1)
    ideal = -np.sort(-ranked, axis=1)[:, :k] @ _discounts(min(k, ranked.shape[1]))
    return _means("ranking_scores", ranked[:, :k], ideal, (ranked > 0).sum(axis=1), weights)


def retrieval_scores(retrieved: Any, relevant: Sequence[Collection[int]], k: int, weights: Any = None) -> dict[str, float]:
    """Scores of the ids that were retrieved for each query, such as a user, out of all items.

    The order of the ids is the ranking: who retrieves says how equal scores are ordered. Queries without a relevant item are
    left out.

    Args:
        retrieved: Ids, integers (B, m), the best first; -1 marks places without an item. m is at least k.
        relevant: The ids that are relevant for each query, B sets, lists or arrays. -1 in them is no id, so that a padded array
            (B, r) will do.
        k: Places at the top that count, at least 1.
        weights: What each query counts, finite and at least 0, (B,) or (B, 1); 1 each by default.

    Returns:
        `{"recall", "ndcg", "mrr", "lists"}` as of `ranking_scores`, each relevant item with a relevance of 1. Relevant items
        that were not retrieved count in recall and NDCG.

    Raises:
        ValueError: bad shapes or values, an id retrieved twice for one query, or no query with a relevant item.

    Example:

    >>> scored = retrieval_scores([[7, 3, 5], [2, 9, 4]], [{3}, {2, 8}], k=2)
    >>> {name: round(value, 3) for name, value in scored.items()}
    {'recall': 0.75, 'ndcg': 0.622, 'mrr': 0.75, 'lists': 2}
    """
    k = integer("retrieval_scores", "k", k)
    ids = np.asarray(retrieved)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or len(ids) != len(relevant):
        raise ValueError(
            f"retrieval_scores: retrieved is {ids.dtype} of shape {ids.shape}, relevant has {len(relevant)} entries; give integers "
            "(B, m) and B collections of ids."
        )
    if ids.shape[1] < k:
        raise ValueError(
            f"retrieval_scores: k={k} is more than the {ids.shape[1]} retrieved ids of a query; retrieve k, and fill up with -1."
        )
    ids = ids[:, :k]
    ordered = np.sort(ids, axis=1)
    if (twice := (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PADDING)).any():
        row = int(np.argmax(twice.any(axis=1)))
        raise ValueError(f"retrieval_scores: retrieved[{row}] has an id twice: {ids[row].tolist()}; each item has one place.")
    lists = [np.asarray(list(some)) for some in relevant]
    for row, some in enumerate(lists):
        if some.size and (some.ndim != 1 or some.dtype.kind not in "iu"):
            raise ValueError(f"retrieval_scores: relevant[{row}] is {some.dtype} of shape {some.shape}; give integers, the ids.")
    # Of one type: int64 and uint64 would become floats, which do not tell large ids apart.
    ids, lists = ids.astype(np.int64), [some.astype(np.int64) for some in lists]
    query = np.repeat(np.arange(len(ids)), [len(some) for some in lists])
    # Ids become their places among all ids, so that a query and an id make one number.
    distinct, place = np.unique(np.concatenate([ids.reshape(-1), *lists]), return_inverse=True)
    key = np.concatenate([np.repeat(np.arange(len(ids)), k), query]) * len(distinct) + place
    pairs = np.unique(key[ids.size :][distinct[place[ids.size :]] != PADDING])
    gains = np.isin(key[: ids.size], pairs).reshape(ids.shape).astype(np.float64)
    counts = np.bincount(pairs // len(distinct), minlength=len(ids))
    ideal = np.append(0.0, np.cumsum(_discounts(k)))[np.minimum(counts, k)]
    return _means("retrieval_scores", gains, ideal, counts, weights)


def _discounts(k: int) -> np.ndarray:
    """Discounts of the first k places, float64 (k,): what a relevant item counts there."""
    return 1 / np.log2(np.arange(2, k + 2))  # type: ignore[no-any-return]


def _means(function: str, top: np.ndarray, ideal: np.ndarray, relevant: np.ndarray, weights: Any) -> dict[str, float]:
    """Mean scores of lists: relevance by place (B, ≤ k), best possible DCG (B,), numbers of relevant items (B,)."""
    rows = row_weights(function, weights, len(top), "lists")
    some = (relevant > 0) & (rows > 0)
    if not some.any():
        raise ValueError(f"{function}: none of the {len(top)} lists that count has a relevant item; give at least one.")
    top, rows, places = top[some], rows[some], np.arange(1, top.shape[1] + 1)
    scored = {
        "recall": (top > 0).sum(axis=1) / relevant[some],
        "ndcg": top @ _discounts(len(places)) / ideal[some],
        "mrr": ((top > 0) / places).max(axis=1),
    }
    return {**{name: float(np.average(each, weights=rows)) for name, each in scored.items()}, "lists": int(some.sum())}


def _check(function: str, name: str, values: np.ndarray, wrong: np.ndarray, allowed: str) -> None:
    if wrong.any():
        row, place = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{function}: {name}[{row}, {place}] is {values[row, place]}; it must be {allowed}.")
