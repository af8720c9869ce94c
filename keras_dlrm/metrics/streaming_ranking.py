"""Streaming metrics of ranked lists: recall, NDCG and reciprocal rank of the first k places."""

from typing import Any

import keras
from keras import ops

from keras_dlrm.metrics.streaming import RunningSum
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.support.arguments import integer


class RankingMetric(keras.metrics.Metric):
    """Base of metrics that are a mean over ranked lists; a subclass has `scores`.

    Labels are relevance (B, n): 0 or 1, or grades above; -1 marks places without an item. Predictions are scores (B, n); weights
    are of lists, (B,) or (B, 1). As in `ranking_scores`, the less relevant ones come first among items of equal score, and lists
    without a relevant item are left out; without any list the result is 0. A score or a relevance of NaN makes it NaN.
    """

    #: What the default name begins with.
    short_name = ""

    def __init__(self, k: int, name: str | None = None) -> None:
        super().__init__(name=name or f"{self.short_name}_at_{k}", dtype="float32")
        self.k = integer(type(self).__name__, "k", k)
        self._total = RunningSum(self, "total")
        self._lists = RunningSum(self, "lists")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add relevance (B, n), scores (B, n) and weights of lists, (B,), (B, 1), a scalar or `None`."""
        relevance, values = (ops.cast(ops.convert_to_tensor(each), "float32") for each in (y_true, y_pred))
        self._check(relevance.shape, values.shape)
        weights = ops.ones_like(relevance[:, 0])
        if sample_weight is not None:
            own = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
            if len(own.shape) > 2 or (len(own.shape) == 2 and own.shape[1] != 1):
                raise ValueError(f"{self.name}: sample_weight has shape {tuple(own.shape)}; give one weight a list, (B,).")
            weights = weights * (ops.reshape(own, (-1,)) if len(own.shape) else own)
        item = relevance > PADDING
        gains = ops.where(item, relevance, 0.0)
        # Sorts are stable. By relevance first, then by score: the less relevant ones of equal score come first.
        order = ops.argsort(ops.where(item, relevance, float("inf")), axis=1)
        falling = ops.take_along_axis(ops.where(item, -values, float("inf")), order, axis=1)
        order = ops.take_along_axis(order, ops.argsort(falling, axis=1), axis=1)
        ranked = ops.take_along_axis(gains, order, axis=1)
        scores = self.scores(ranked[:, : self.k], gains)
        no_relevance = ops.any(ops.isnan(relevance), axis=1)
        unknown = ops.logical_or(no_relevance, ops.any(ops.logical_and(item, ops.isnan(values)), axis=1))
        scores = ops.where(unknown, float("nan"), scores)
        some = ops.logical_or(no_relevance, ops.any(gains > 0.0, axis=1))
        weights = ops.where(some, weights, 0.0)
        self._total.add(ops.sum(ops.where(weights > 0.0, weights * scores, 0.0)))
        self._lists.add(ops.sum(weights))

    def _check(self, relevance: Any, scores: Any) -> None:
        alike = len(relevance) == len(scores) == 2 and all(
            None in pair or pair[0] == pair[1] for pair in zip(relevance, scores, strict=True)
        )
        if not alike or scores[1] == 1:
            raise ValueError(
                f"{self.name}: y_true has shape {tuple(relevance)} and y_pred has {tuple(scores)}; give (B, n) both, the relevance "
                "and the scores of lists of n > 1 items. For one item a row there are AUC and GroupedAUC."
            )

    def scores(self, top: Any, gains: Any) -> Any:
        """Score of each list, float32 (B,), from the relevance of its first places (B, ≤ k) and of all of its items (B, n)."""
        raise NotImplementedError

    def result(self) -> Any:
        """The mean over the lists since the last reset, a float32 scalar tensor."""
        return ops.divide_no_nan(self._total.value(), self._lists.value())

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the metric again."""
        return {"k": self.k, "name": self.name}


def _places(top: Any) -> Any:
    """1, 2, … for each of the places, float32 (≤ k,)."""
    return ops.arange(1, top.shape[1] + 1, dtype="float32")


def _dcg(top: Any) -> Any:
    return ops.sum(top * (ops.log(2.0) / ops.log(1.0 + _places(top))), axis=1)


@keras.saving.register_keras_serializable(package="keras_dlrm")
class RecallAtK(RankingMetric):
    """Share of a list's relevant items that are among the k with the highest scores.

    With one relevant item a list, the usual leave-one-out test, it is the hit rate HR@k.

    Args:
        k: Places at the top that count, at least 1; all where a list has fewer.
        name: Name of the metric; `recall_at_<k>` by default.

    Example:

    >>> metric = RecallAtK(2)
    >>> metric.update_state(np.array([[1, 0, 1, 0], [0, 0, 1, -1]]), np.array([[0.9, 0.8, 0.1, 0.2], [0.1, 0.3, 0.2, 0.0]]))
    >>> float(metric.result())
    0.75
    """

    short_name = "recall"

    def scores(self, top: Any, gains: Any) -> Any:
        count = ops.sum(ops.cast(gains > 0.0, "float32"), axis=1)
        return ops.divide_no_nan(ops.sum(ops.cast(top > 0.0, "float32"), axis=1), count)


@keras.saving.register_keras_serializable(package="keras_dlrm")
class NDCG(RankingMetric):
    """Normalized discounted cumulative gain: Σ relevance / log2(1 + place) of the first k places, over the best possible one.

    For gains of 2^grade - 1 give these as labels.

    Args:
        k: Places at the top that count, at least 1; all where a list has fewer.
        name: Name of the metric; `ndcg_at_<k>` by default.

    Example:

    >>> metric = NDCG(2)
    >>> metric.update_state(np.array([[0, 1, 0], [1, 0, 0]]), np.array([[0.9, 0.8, 0.1], [0.9, 0.3, 0.2]]))
    >>> round(float(metric.result()), 4)
    0.8155

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 20, 2002.
    """

    short_name = "ndcg"

    def scores(self, top: Any, gains: Any) -> Any:
        ideal = -ops.sort(-gains, axis=1)[:, : self.k]
        return ops.divide_no_nan(_dcg(top), _dcg(ideal))


@keras.saving.register_keras_serializable(package="keras_dlrm")
class MeanReciprocalRank(RankingMetric):
    """Mean of 1 / place of the first relevant item, 0 where it is not in the first k places.

    Args:
        k: Places at the top that count, at least 1; all where a list has fewer.
        name: Name of the metric; `mrr_at_<k>` by default.

    Example:

    >>> metric = MeanReciprocalRank(10)
    >>> metric.update_state(np.array([[0, 1, 0], [1, 0, 0]]), np.array([[0.9, 0.8, 0.1], [0.9, 0.3, 0.2]]))
    >>> float(metric.result())
    0.75

    Source: Voorhees, The TREC-8 Question Answering Track Report, 1999.
    """

    short_name = "mrr"

    def scores(self, top: Any, gains: Any) -> Any:
        return ops.max(ops.cast(top > 0.0, "float32") / _places(top), axis=1)
