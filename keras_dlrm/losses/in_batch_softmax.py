"""`InBatchSoftmax`, a loss of retrieval: each pair's item against the other items of the batch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dlrm.support.arguments import boolean, integer, shown

_NONE = -1e30  # logit of what is no candidate; infinity would have no gradient


class Candidates(NamedTuple):
    """Some items that queries are scored with."""

    scores: Any  # logits, float32 (B, M)
    kept: Any  # whether each is a negative of a query, bool (B, M)
    log_q: Any  # log of the probability with which one draw gives the item, float32 (M,) or a number


@keras.saving.register_keras_serializable("keras_dlrm")
class InBatchSoftmax(keras.losses.Loss):
    """Cross-entropy of each positive pair of a batch against the batch's items: a softmax over all items, estimated.

    For `kd.models.TwoTower`. A row with a label above 0 is a query: its own item is to be found among the items of all rows. A row
    with label 0 is no query, but its item is a negative of the others; a row with a sample weight of 0 is neither. A query's
    loss counts by its sample weight, and the mean is one over the queries.

    An item is in a batch as often as it is in the log, so that popular items are negatives too often. Therefore the log of the
    probability with which it was drawn is taken from a negative's logit. The query's own item is known to be there, and keeps
    its logit. The loss and its gradient then are estimates of those of the softmax over all items.

    Negatives are those of the whole batch, also where several processes or replicas have a part of it each.

    Args:
        log_q: How often items are drawn. `"streaming"`: estimated during training from how many steps pass until an item comes
            again, a mean of these gaps that becomes a moving one, of rate 0.01, after 100 of them. An array: counts by row of the
            table of the model's `item_id`, (vocabulary_size,); those below 1 count as 1. `None`: logits stay as they are.
        accidental_hits: Whether other rows' items of the same id as the query's own are left out of its negatives. If not, they
            are negatives, and the log of the probability is taken from the own item's logit, too.
        hard_negatives: Number of the batch's negatives that a query keeps, those with the largest logits; 0: all.
        uniform_negatives: Number of further negatives a step, drawn from the catalog, each item with the same probability.
        catalog: A packed batch with a row for each item, (N, …), from which they are drawn. The user's columns in it are not read.
        name: Name of the loss.
        reduction: As of `keras.losses.Loss`.

    Raises:
        TypeError: `catalog` is no packed batch.
        ValueError: an unknown `log_q`, counts that are negative, not finite or all 0, `uniform_negatives` without a catalog, or a
            catalog without them.

    Source: Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", equation 3 and
    algorithm 2; Bengio and Senécal 2008, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language
    Model"; Yang et al. 2020, "Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations" (uniform ones).

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
    >>> model = kd.models.TwoTower(schema, user=["user"], item=["item"], output_dim=8)
    >>> catalog = {"sparse": np.stack([np.full(20, -1), np.arange(20)], axis=1)}
    >>> model.compile("adam", loss=InBatchSoftmax(uniform_negatives=4, catalog=catalog))
    >>> batch = schema.pack({"user": [1, 2, 3], "item": [7, 8, 9]})
    >>> len(model.fit(batch, np.ones(3), verbose=0).history["loss"])
    1
    """

    def __init__(
        self, log_q: Any = "streaming", accidental_hits: bool = True, hard_negatives: int = 0, uniform_negatives: int = 0,
        catalog: Mapping[str, Any] | None = None, name: str = "in_batch_softmax", reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.log_q = log_q if log_q is None or isinstance(log_q, str) else _counts(log_q)
        if isinstance(log_q, str) and log_q != "streaming":
            raise ValueError(f"InBatchSoftmax: log_q={shown(log_q)} is unknown; give 'streaming', counts by item, or None.")
        self.accidental_hits = boolean("InBatchSoftmax", "accidental_hits", accidental_hits)
        self.hard_negatives = integer("InBatchSoftmax", "hard_negatives", hard_negatives, low=0)
        self.uniform_negatives = integer("InBatchSoftmax", "uniform_negatives", uniform_negatives, low=0)
        self.catalog = None if catalog is None else _catalog(catalog)
        if bool(self.uniform_negatives) != (self.catalog is not None):
            have = "there is no catalog to draw them from" if self.catalog is None else "the catalog is of no use"
            raise ValueError(f"InBatchSoftmax: uniform_negatives={self.uniform_negatives}, and {have}; give both, or neither.")

    def of_scores(self, positive: Any, own_log_q: Any, draws: Any, in_batch: Candidates, uniform: Candidates | None) -> Any:
        """Losses of queries, float32 (B,).

        Args:
            positive: Logits of the queries' own items, (B,).
            own_log_q: As of `Candidates`, of the queries' own items.
            draws: Number of draws besides the own item of a query.
            in_batch: Items of the batch.
            uniform: Items drawn from the catalog, if there are.
        """
        negatives = [self._corrected(in_batch)]
        if self.hard_negatives:
            most = negatives[0].shape[1]
            most = ops.shape(negatives[0])[1] if most is None else most
            k = min(self.hard_negatives, most) if isinstance(most, int) else ops.minimum(self.hard_negatives, most)
            negatives = [ops.top_k(negatives[0], k)[0]]
        if uniform is not None:
            negatives.append(self._corrected(uniform))
        if self.log_q is not None:
            # Where copies of the own item are left out it stands for all of its share: as if each draw counted it once.
            positive = positive + ops.log(ops.maximum(draws, 1.0)) if self.accidental_hits else positive - own_log_q
        return ops.logsumexp(ops.concatenate([positive[:, None], *negatives], axis=1), axis=1) - positive

    def _corrected(self, candidates: Candidates) -> Any:
        scores = candidates.scores if self.log_q is None else candidates.scores - candidates.log_q
        return ops.where(candidates.kept, scores, _NONE)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        raise ValueError("InBatchSoftmax: it needs vectors of users and items; use it in kd.models.TwoTower.")

    def get_config(self) -> dict[str, Any]:
        # Counts and catalog are among the model's weights; here is how large they are.
        log_q = self.log_q if not isinstance(self.log_q, np.ndarray) else {"rows": len(self.log_q)}
        catalog = None if self.catalog is None else {name: list(values.shape) for name, values in self.catalog.items()}
        plain = ("accidental_hits", "hard_negatives", "uniform_negatives", "name", "reduction")
        return {**{name: getattr(self, name) for name in plain}, "log_q": log_q, "catalog": catalog}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InBatchSoftmax":
        config = dict(config)
        if isinstance(config["log_q"], Mapping):
            config["log_q"] = np.ones(config["log_q"]["rows"], np.float32)
        if config["catalog"] is not None:
            kinds = {name: np.int32 if name == "sparse" else np.float32 for name in config["catalog"]}
            config["catalog"] = {name: np.zeros(shape, kinds[name]) for name, shape in config["catalog"].items()}
        return cls(**config)


def _counts(counts: Any) -> np.ndarray:
    try:
        array = np.asarray(counts)
    except ValueError:  # lists of several lengths
        array = np.asarray(counts, object)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        shape = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"InBatchSoftmax: log_q is {shape}; give 'streaming', counts by item row (vocabulary_size,), or None.")
    array = array.astype(np.float32)
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any() or not array.any():
        what = f"log_q[{np.argmax(wrong)}] is {array[np.argmax(wrong)]}" if wrong.any() else "log_q is 0 everywhere"
        raise ValueError(f"InBatchSoftmax: {what}; counts must be finite, at least 0, and not all 0.")
    if array.max() < 1:
        top = f"log_q reaches {array.max():g}, as probabilities do"
        raise ValueError(f"InBatchSoftmax: {top}; give counts: how often each item came.")
    return array


def _catalog(catalog: Any) -> dict[str, np.ndarray]:
    if not isinstance(catalog, Mapping):
        raise TypeError(f"InBatchSoftmax: catalog must be a packed batch (a dict), not {type(catalog).__name__}; use schema.pack.")
    arrays = {name: np.asarray(values) for name, values in catalog.items()}
    rows = {len(values) if values.ndim else 0 for values in arrays.values()}
    if len(rows) != 1 or 0 in rows:
        shapes = {name: values.shape for name, values in arrays.items()}
        raise ValueError(f"InBatchSoftmax: catalog has the shapes {shapes}; give a row for each item, at least one.")
    return arrays
