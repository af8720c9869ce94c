"""Recommendation in two stages: candidates from an index, their columns from its item table, their order from another model."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_dlrm.retrieval.index import Index
from keras_dlrm.retrieval.sides import Batch, Side
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.crosses import fill, own
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer, number, shown

_LEAST = np.float32(2**-24)
# Pairs that the second model gets at once.
_PAIRS = 2**16
Answers = tuple[np.ndarray, np.ndarray]


def recommend(
    index: Index, ranker: Any, users: Mapping[str, Any], k: int, *, candidates: int = 500, blend: float = 0.0, exclude: Any = None,
    allowed: Any = None, probes: int | None = None,
) -> Answers:  # fmt: skip
    """The k items with the highest click probabilities among the index's best candidates, for each user.

    Args:
        index: The index, with its model.
        ranker: A model of `kd.models` with one label, whose columns are some of those of the index's model, and crosses of these.
        users: Packed batch of the index's model, B rows; the item's columns may hold anything.
        k: Number of items.
        candidates: Number of items that the second model scores for each user, at least k.
        blend: Weight of the index's score, which is added to the logit of the click probability for the order. Two models that were
            trained in different ways know different things; about 0.25 is a weight to begin with.
        exclude, allowed, probes: As of `Index.query`.

    Returns:
        `(ids, probabilities)`: (B, k), the best first; of equal ones that with the higher score in the index. Where there are
        fewer items there are ids of -1, or "", with a probability of 0.

    Raises:
        TypeError, ValueError: as of `Index.query`; `ranker` is no model, or has other columns; fewer candidates than k.

    Source: Covington et al. 2016, "Deep Neural Networks for YouTube Recommendations", figure 2.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
    >>> index = kd.retrieval.Index.build(kd.models.TwoTower(schema, ["user"], ["item"]), {"item": [3, 5, 7]})
    >>> ranker = kd.models.DLRM(schema, embedding_dim=4, top_mlp=[8, 1])
    >>> ids, probabilities = recommend(index, ranker, schema.pack({"user": [1], "item": [-1]}), k=2, candidates=3)
    >>> ids.shape, probabilities.dtype.name
    ((1, 2), 'float32')
    """
    who = "recommend"
    check_index(who, index)
    check_ranker(who, index.content.schema, ranker)
    check_numbers(who, k, candidates, blend)
    best = index.search(index.user_vectors(who, users), candidates, exclude=exclude, allowed=allowed, probes=probes)
    return ranked(index, ranker.schema, lambda batch: ranker.predict(batch, batch_size=_PAIRS, verbose=0), users, best, k, blend)


def check_numbers(who: str, k: int, candidates: int, blend: float) -> None:
    """`ValueError` unless there are at least as many candidates as items, of which there is one, and the weight is not negative."""
    number(who, "blend", blend)
    if integer(who, "candidates", candidates) < integer(who, "k", k):
        raise ValueError(f"{who}: candidates={candidates} are fewer than k={k}; give at least as many.")


def check_index(who: str, index: Any) -> None:
    """`TypeError` for what is no index, such as its folder."""
    if not isinstance(index, Index):
        raise TypeError(f"{who}: index={shown(index)} must be a kd.retrieval.Index; use Index.load(path, model).")


def check_ranker(who: str, schema: Schema, ranker: Any) -> None:
    """`TypeError` for what is no model, `ValueError` unless it has one label, and columns of a schema or crosses of these."""
    its = getattr(ranker, "schema", None)
    if not isinstance(its, Schema):
        raise TypeError(f"{who}: ranker={shown(ranker)} must be a model of kd.models; use keras.saving.load_model(path).")
    if len(its.labels) > 1:
        raise ValueError(f"{who}: the ranker has the labels {list(its.labels)}, and an order needs one; give a model of one label.")
    dense = {column.name: column for column in schema.dense}
    sparse = {column.name: column for column in schema.categorical}
    fix = f"give a ranker whose columns are some of those of the index's model, {[*dense, *sparse]}, or crosses of these"
    its_dense, its_sparse = its.dense, own(its.categorical)
    missing = [c.name for c in its_dense if c.name not in dense] + [c.name for c in its_sparse if c.name not in sparse]
    if missing:
        raise ValueError(f"{who}: ranker has the column {missing[0]!r}, which the index's model has not; {fix}.")
    known = schema.with_columns([dense[c.name] for c in its_dense], [sparse[c.name] for c in its_sparse])
    check_same(f"{who}: ranker", its.with_columns(its_dense, its_sparse), known, fix=fix)


def ranked(
    index: Index, schema: Schema, probabilities: Callable[[Batch], np.ndarray], users: Mapping[str, Any],
    candidates: tuple[np.ndarray, np.ndarray], k: int, blend: float = 0.0,
) -> Answers:  # fmt: skip
    """The k best of the candidates, rows of an index and their scores (B, C), by a function of packed batches of a schema."""
    rows, scores = candidates
    count = rows.shape[1]
    chances = np.zeros(rows.shape, np.float32)
    size = max(1, _PAIRS // count)
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        some = {key: np.asarray(values)[block] for key, values in users.items()}
        chances[block] = np.asarray(probabilities(pairs(index, schema, some, rows[block]))).reshape(-1, count)
    by = blended(np, chances, np.where(rows >= 0, scores, np.float32(0)), blend) if blend else chances
    # Behind all others, where there is no item.
    order = np.argsort(-np.where(rows >= 0, by, np.float32(-np.inf)), axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(rows, order, axis=1)
    return index.ids.at(best), np.where(best >= 0, np.take_along_axis(chances, order, axis=1), np.float32(0))


def blended(math: Any, chances: Any, scores: Any, blend: float) -> Any:
    """Logits of probabilities and a share of the index's scores, float32, by NumPy or `tensorflow.math`."""
    # Of a probability of 0 or 1 in float32, the logit of the number next to it.
    p = math.minimum(math.maximum(chances, _LEAST), 1 - _LEAST)
    return math.log(p) - math.log1p(-p) + np.float32(blend) * scores


def pairs(index: Index, schema: Schema, users: Mapping[str, Any], rows: np.ndarray) -> Batch:
    """Packed batch of a schema, B · C rows: each user with the items of its rows, int (B, C); -1 stands for the first one."""
    content, count = index.content, rows.shape[1]
    side = Side(content.schema, content.item_columns)
    whole = {key: np.repeat(np.asarray(users[key]), count, axis=0) for key in content.schema.input_names}
    for key, columns in content.columns.items():
        whole[key][:, side.places[key]] = columns[np.maximum(rows, 0).reshape(-1)]
    batch = {}
    if schema.dense:
        batch["dense"] = whole["dense"][:, [content.schema.dense_names.index(name) for name in schema.dense_names]]
    if schema.categorical:
        starts = dict(zip(content.schema.categorical_names, content.schema.offsets, strict=True))
        batch["sparse"] = np.full((rows.size, schema.width), PADDING, whole["sparse"].dtype)
        for column, start in zip(schema.categorical, schema.offsets, strict=True):
            if not column.crossed:
                first = starts[column.name]
                batch["sparse"][:, start : start + column.hotness] = whole["sparse"][:, first : first + column.hotness]
        fill(schema, batch["sparse"])
    return batch
