"""Search for the largest products of query vectors and item vectors: part by part, a running best of k (keras.ops)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.embeddings.quantized import quantize

#: Arrays of stored vectors, in each of which an item has a row; and those that a query reads of all items.
VECTORS, SCANNED = ("codes", "scale", "residual"), ("codes", "scale")
#: Score of a place for which there is no item.
NONE = float("-inf")
# Codes of residuals in a step of the codes.
_FINE = 254


class Best(NamedTuple):
    """The best items so far: scores float32 (B, k), in falling order, and rows int32 (B, k), -1 where there is none."""

    scores: Any
    rows: Any


def nothing(queries: Any, k: int) -> Best:
    """The best of no items, for queries (B, D)."""
    shape = (ops.shape(queries)[0], k)
    return Best(ops.full(shape, NONE, "float32"), ops.full(shape, -1, "int32"))


def stored(vectors: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """Vectors float32 (n, D) as an index stores them: `codes` (n, D), and for int8 `scale` (n, 1) and `residual` (n, D).

    The residual is what the rounding to codes left, in int8 again: a query reads the codes of all items, and both of the few best.
    """
    quantized = quantize(vectors, dtype)
    if quantized.scale is None:
        return quantized.arrays
    scale = quantized.scale.astype(np.float32)
    steps = np.divide(vectors, scale, out=np.zeros_like(vectors), where=scale > 0)
    return {**quantized.arrays, "residual": np.rint((steps - quantized.codes) * _FINE).astype(np.int8)}


def decoded(arrays: Mapping[str, Any]) -> Any:
    """Stored vectors as float32 (…, D)."""
    vectors = ops.cast(arrays["codes"], "float32")
    if "scale" not in arrays:
        return vectors
    vectors = vectors + ops.cast(arrays["residual"], "float32") / _FINE
    return vectors * ops.cast(arrays["scale"], "float32")


def looked_at(k: int, arrays: Mapping[str, Any]) -> int:
    """Number of items that a search for the best k finds by their codes; of int8 some more than k, for `among` to choose from."""
    return 4 * k + 64 if "residual" in arrays else k


def better(best: Best, queries: Any, arrays: Mapping[str, Any], first: Any, hidden: Any = None) -> Best:
    """The best of `best` and of a further part of the items; of equal scores the lowest row comes first.

    Args:
        best: Of the rows before.
        queries: float32 (B, D).
        arrays: Stored vectors (n, D) of the rows `first … first + n - 1`.
        first: The first row.
        hidden: Rows that a query must not get, int32 (B, h), -1 for none; or `None`.
    """
    scores = backend.products(queries, ops.cast(arrays["codes"], "float32"))
    if "scale" in arrays:
        # n multiplications, not n · D.
        scores = scores * ops.reshape(ops.cast(arrays["scale"], "float32"), (1, -1))
    if hidden is not None:
        n = ops.shape(scores)[1]
        places = hidden - first
        scores = scores + _mask(ops.where(ops.logical_and(places >= 0, places < n), places, n), n)
    values, places = backend.top_k(scores, _at_most(best.scores.shape[1], scores))
    return merged(best, Best(values, ops.cast(places, "int32") + first))


def merged(best: Best, more: Best) -> Best:
    """The best k of both; of equal scores those of `best` come first."""
    scores = ops.concatenate([best.scores, more.scores], axis=1)
    rows = ops.concatenate([best.rows, more.rows], axis=1)
    values, places = backend.top_k(scores, best.scores.shape[1])
    return Best(values, ops.take_along_axis(rows, ops.cast(places, "int32"), axis=1))


def among(best: Best, queries: Any, arrays: Mapping[str, Any], rows: Any, hidden: Any = None, count: int = 0) -> Best:
    """The best of `best` and of some rows for each query.

    Args:
        best, queries, hidden: As of `better`.
        arrays: Stored vectors of these rows, (B, n, …).
        rows: int32 (B, n), -1 for none.
        count: Number of all items.
    """
    scores = ops.einsum("bd,bnd->bn", queries, decoded(arrays))
    scores = ops.where(rows >= 0, scores, NONE)
    if hidden is not None:
        mask = _mask(ops.where(hidden >= 0, hidden, count), count)
        scores = scores + ops.take_along_axis(mask, ops.maximum(rows, 0), axis=1)
    values, places = backend.top_k(scores, _at_most(best.scores.shape[1], scores))
    return merged(best, Best(values, ops.take_along_axis(rows, ops.cast(places, "int32"), axis=1)))


def probed(best: Best, queries: Any, index: Mapping[str, Any], probes: int, hidden: Any = None) -> Best:
    """The best of `best` and of the items of some groups: those whose centers have the largest products with the query.

    Args:
        best, queries, hidden: As of `better`.
        index: `"centers"` and `"members"` as of `Lists`, and all stored vectors.
        probes: Number of groups.
    """
    _, groups = backend.top_k(backend.products(queries, index["centers"]), probes)
    rows = ops.reshape(ops.take(index["members"], groups, axis=0), (-1, probes * index["members"].shape[1]))
    places = ops.maximum(rows, 0)
    vectors = {name: ops.take(index[name], places, axis=0) for name in VECTORS if name in index}
    return among(best, queries, vectors, rows, hidden, ops.shape(index["codes"])[0])


def finished(best: Best, queries: Any) -> Best:
    """The best, with rows of -1 where there is no item; there is none for a query that is not finite."""
    real = ops.logical_and(best.scores > NONE, ops.all(ops.isfinite(queries), axis=1, keepdims=True))
    return Best(ops.where(real, best.scores, NONE), ops.where(real, best.rows, -1))


def _at_most(k: int, scores: Any) -> Any:
    n = ops.shape(scores)[1]
    return min(k, n) if isinstance(n, int) else ops.minimum(k, n)


def _mask(places: Any, n: Any) -> Any:
    """Places (B, h) of n, or n itself for none → (B, n): -inf there, else 0."""
    rows, width = ops.shape(places)[0], ops.shape(places)[1]
    which = ops.repeat(ops.expand_dims(ops.arange(rows, dtype="int32"), 1), width, axis=1)
    indices = ops.stack([ops.reshape(which, (-1,)), ops.reshape(ops.cast(places, "int32"), (-1,))], axis=1)
    zeros = ops.zeros((rows, n + 1), "float32")
    return ops.scatter_update(zeros, indices, ops.full((rows * width,), NONE, "float32"))[:, :n]
