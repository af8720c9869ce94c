"""Evaluation of retrieval among all items: recall, NDCG, reciprocal rank, coverage, popularity."""

import operator
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_dlrm.metrics.ranking import retrieval_scores
from keras_dlrm.retrieval import search
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.support.arguments import integer, is_list, shown

# At most so many scores in memory; a search has four arrays of their size, 64 MiB.
_USERS, _ITEMS = 128, 32768


def evaluate(
    users: Any, items: Any, relevant: Sequence[Collection[int]], k: int = 20, seen: Sequence[Collection[int]] | None = None,
    popularity: Any = None,
) -> dict[str, float]:  # fmt: skip
    """Scores of the k best items of each user, out of all.

    Exact, part by part: besides the vectors and the k best rows of each user there are at most 64 MiB of scores in memory. Of items
    of equal score the one with the lowest row is the better one.

    Args:
        users: Vectors of users, (B, D), such as `TwoTower.user_vectors` gives.
        items: Vectors of all items, (N, D).
        relevant: Rows of the items that are relevant for each user, B collections. Users without any count in nothing.
        k: Number of items that a user gets.
        seen: Rows of items that a user does not get, such as those of the training part, B collections.
        popularity: Number of times that each item is in the training part, (N,).

    Returns:
        `recall`, `ndcg`, `mrr` and `lists` as of `kd.metrics.retrieval_scores`, and

        - `coverage`: share of the items that some user gets.
        - `gini`: Gini coefficient of how many users get each item, from 0, all items alike, to 1 - 1/N, one item for all.
        - `popularity`, where it is given: mean popularity of a user's items, mean over users (ARP); 0 where nobody gets any.

    Raises:
        ValueError: bad shapes, a row that is no item's, a vector that is not finite, no relevant item.

    Source: Yin et al. 2012, "Challenging the Long Tail Recommendation", section 4.2 (popularity); Ge et al. 2010, "Beyond Accuracy:
    Evaluating Recommender Systems by Coverage and Serendipity", section 3 (coverage).

    Example:

    >>> users, items = np.eye(2, dtype="float32"), np.array([[1.0, 0.0], [0.9, 0.5], [0.0, 1.0]])
    >>> scores = evaluate(users, items, relevant=[[1], [2]], k=1, seen=[[0], []], popularity=[5, 2, 1])
    >>> {name: round(value, 3) for name, value in scores.items()}
    {'recall': 1.0, 'ndcg': 1.0, 'mrr': 1.0, 'lists': 2, 'coverage': 0.667, 'gini': 0.333, 'popularity': 1.5}
    """
    _check_lists("evaluate", "relevant", relevant)
    count = len(relevant)
    if seen is not None:
        _check_lists("evaluate", "seen", seen, count)
    if np.ndim(users) != 2 or len(users) != count:
        raise ValueError(f"evaluate: users has shape {np.shape(users)}, relevant has {count} entries; give a vector for each.")
    asked = np.array([len(rows) > 0 for rows in relevant], bool)
    if not asked.any():
        raise ValueError(f"evaluate: none of the {count} users has a relevant item; give at least one.")
    places = [int(place) for place in np.flatnonzero(asked)]
    relevant = [relevant[place] for place in places]
    _csr("evaluate", "relevant", relevant, len(items))
    rows, _ = best_items(_vectors("users", users)[places], items, k, None if seen is None else [seen[place] for place in places])
    scores = retrieval_scores(rows, relevant, k)
    real = rows >= 0
    times = np.bincount(rows[real], minlength=len(items))
    n = len(times)
    gini = float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(times) / max(n * times.sum(), 1))
    scores |= {"coverage": float((times > 0).mean()), "gini": gini}
    if popularity is not None:
        try:
            each = np.asarray(popularity, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"evaluate: popularity={shown(popularity)} must be numbers, one for each of the {n} items.") from error
        if each.shape != (n,) or not np.isfinite(each).all():
            raise ValueError(f"evaluate: popularity has shape {each.shape}; give a finite number for each of the {n} items.")
        some = real.any(axis=1)
        sums = np.where(real, each[np.maximum(rows, 0)], 0.0).sum(axis=1)[some]
        scores["popularity"] = float((sums / real.sum(axis=1)[some]).mean()) if some.any() else 0.0
    return scores


def best_items(users: Any, items: Any, k: int, seen: Sequence[Collection[int]] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k items with the largest products of each user, out of all.

    Args:
        users, items, k, seen: As of `evaluate`.

    Returns:
        Rows int64 (B, k), the best first and -1 where there are no more items, and their scores, float32 (B, k), -inf there.

    Raises:
        ValueError: as of `evaluate`.

    Example:

    >>> best_items(np.eye(2), np.array([[1.0, 0.0], [0.5, 0.5], [1.0, 1.0]]), k=2)[0].tolist()
    [[0, 2], [2, 1]]
    """
    k = integer("best_items", "k", k)
    users, items = (_vectors(name, values) for name, values in (("users", users), ("items", items)))
    if users.shape[1] != items.shape[1]:
        raise ValueError(f"best_items: users has width {users.shape[1]}, items has {items.shape[1]}; give vectors of one width.")
    if seen is not None:
        _check_lists("best_items", "seen", seen, len(users))
    every, starts = _csr("best_items", "seen", seen or [[]] * len(users), len(items))
    rows, scores = np.empty((len(users), k), np.int64), np.empty((len(users), k), np.float32)
    for first in range(0, len(users), _USERS):
        part = slice(first, min(first + _USERS, len(users)))
        sizes = np.diff(starts[first : part.stop + 1])
        hidden = np.full((len(sizes), max(1, sizes.max())), PADDING, np.int32)
        hidden[np.arange(hidden.shape[1]) < sizes[:, None]] = every[starts[first] : starts[part.stop]]
        asked, without = ops.convert_to_tensor(users[part]), ops.convert_to_tensor(hidden) if sizes.any() else None
        best = search.nothing(asked, k)
        for start in range(0, len(items), _ITEMS):
            best = search.better(best, asked, {"codes": items[start : start + _ITEMS]}, start, without)
        best = search.finished(best, asked)
        rows[part], scores[part] = ops.convert_to_numpy(best.rows), ops.convert_to_numpy(best.scores)
    return rows, scores


def _vectors(name: str, values: Any) -> np.ndarray:
    array = np.asarray(ops.convert_to_numpy(values), np.float32)
    if array.ndim != 2:
        raise ValueError(f"best_items: {name} has shape {array.shape}; give vectors, (B, D).")
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array).all(axis=1)))
        raise ValueError(f"best_items: {name}[{row}] is not finite; a vector of NaN or infinity has no order.")
    return array


def _check_lists(who: str, name: str, lists: Any, users: int | None = None) -> None:
    """Error unless there is a collection for each user."""
    if not (is_list(lists) and isinstance(lists, Collection)):
        raise TypeError(f"{who}: {name}={shown(lists)} must have a list of rows for each user.")
    for i, each in enumerate(lists):
        if not (is_list(each) and isinstance(each, Collection)):
            raise TypeError(f"{who}: {name}[{i}] is {shown(each)}; give a list of rows for each user.")
    if users is not None and len(lists) != users:
        raise ValueError(f"{who}: {name} has {len(lists)} entries for {users} users; give one for each.")


def _csr(who: str, name: str, lists: Sequence[Collection[int]], items: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of all lists one after the other, and where each begins."""
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in lists], dtype=np.int64)])
    try:
        every = np.fromiter((operator.index(row) for rows in lists for row in rows), np.int64, int(starts[-1]))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{who}: {name} has what is no row; give whole numbers: {error}.") from error
    wrong = (every < PADDING) | (every >= items)
    if wrong.any():
        place = int(np.argmax(wrong))
        user = int(np.searchsorted(starts, place, side="right")) - 1
        raise ValueError(f"{who}: {name}[{user}] has the row {every[place]}; there are {items} items, and -1 stands for none.")
    return every, starts
