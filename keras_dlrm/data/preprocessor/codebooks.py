"""Codebooks of content vectors: residual k-means on a sample of different vectors, codes of vectors, and their statistics."""

import base64
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.hashing import mix

# Most different vectors that a codebook is fitted on.
SAMPLE = 2**16
_ROUNDS = 25
# Rows whose distances to all centers are in memory at once.
_ROWS = 2**14


class CodebookFit:
    """Gathers different content vectors over many frames in bounded memory, and fits the codebooks of one column.

    It keeps the vectors with the smallest hashes: each different vector has the same chance, however many rows have it, and
    neither their order nor the parts in which they come matter.
    """

    def __init__(self, column: Categorical, sample: int = SAMPLE) -> None:
        self.column, self._sample = column, sample
        self._hashes = np.empty(0, np.uint64)
        self._vectors = np.empty((0, int(column.width or 1)), np.float32)
        self._full = False

    def update(self, vectors: np.ndarray) -> None:
        """Take vectors (n, width), with NaN where missing, into account."""
        vectors, finite = _float32(vectors)
        kept = vectors[finite] + np.float32(0)  # no negative zero, whose bits are others
        low, high = np.zeros((2, len(kept)), np.uint32)
        for bits in kept.T.copy().view(np.uint32):
            low, high = mix(low + bits), mix((high ^ bits) + np.uint32(0x9E3779B9))
        hashes = low | high.astype(np.uint64) << np.uint64(32)
        hashes, first = np.unique(np.concatenate([self._hashes, hashes]), return_index=True)
        self._full |= len(hashes) > self._sample
        self._hashes = hashes[: self._sample]
        self._vectors = np.concatenate([self._vectors, kept])[first[: self._sample]]

    def state(self) -> dict[str, Any]:
        """The codebooks and their statistics, as JSON values; a warning where no vector was there to learn them from."""
        if not len(self._vectors):
            what = f"SemanticIds {self.column.name!r}: the training part has no vector of finite float32 numbers"
            warnings.warn(f"{what} in {self.column.of!r}, so every code is missing; see that column.", stacklevel=2)
        residual, books = self._vectors.astype(np.float64), []
        for level in range(self.column.hotness):
            books.append(kmeans(residual, int(self.column.codes or 1), np.random.default_rng(level)).astype(np.float32))
            residual = residual - books[-1][nearest(residual, books[-1])]
        centers = base64.b64encode(np.concatenate(books).astype("<f4").tobytes()).decode()
        state = {"codes": [len(book) for book in books], "centers": centers}
        variance = self._vectors.var(axis=0, dtype=np.float64).sum() * len(residual) if len(residual) else 0.0
        error = float((residual**2).sum() / variance) if variance else 0.0
        return {**state, "statistics": {"sampled": self._full, "error": error, **statistics(encode(state, self._vectors))}}


def kmeans(vectors: np.ndarray, codes: int, random: np.random.Generator) -> np.ndarray:
    """At most `codes` centers (k, width) of vectors (n, width): k-means from a k-means++ start; one of zeros if there are none.

    A center that no vector is nearest to moves to the vector that is farthest from its own.

    Example:

    >>> kmeans(np.array([[0.0], [0.2], [5.0]]), 2, np.random.default_rng(0)).ravel().tolist()
    [0.1, 5.0]

    Source: Lloyd 1982; Arthur and Vassilvitskii 2007, "k-means++".
    """
    if not len(vectors):
        return np.zeros((1, vectors.shape[1]))
    chosen = [int(random.integers(len(vectors)))]
    distance = ((vectors - vectors[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < codes and distance.max() > 1e-12:
        chosen.append(int(np.searchsorted(np.cumsum(distance), random.random() * distance.sum(), "right")))
        distance = np.minimum(distance, ((vectors - vectors[chosen[-1]]) ** 2).sum(axis=1))
    centers, before = vectors[chosen], np.empty(0)
    for _ in range(_ROUNDS):
        code = nearest(vectors, centers)
        if np.array_equal(code, before):
            break
        before, counts = code, np.bincount(code, minlength=len(centers))
        sums = np.stack([np.bincount(code, column, len(centers)) for column in vectors.T], axis=1)
        empty = np.flatnonzero(counts == 0)
        far = np.argsort(-((vectors - centers[code]) ** 2).sum(axis=1))[: len(empty)]
        centers = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centers)
        centers[empty] = vectors[far]
    order = np.lexsort(centers.T[::-1])  # numbers of the centers do not depend on the start's order
    return centers[order]


def nearest(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Number of the nearest center of each vector, int64 (n,); the first of several. In float64, as in an exported graph."""
    centers = centers.astype(np.float64)
    half = (centers**2).sum(axis=1) / 2
    parts = (vectors[i : i + _ROWS].astype(np.float64) for i in range(0, len(vectors), _ROWS))
    return np.concatenate([np.empty(0, np.int64), *(np.argmin(half - part @ centers.T, axis=1) for part in parts)])


def codebooks(state: Mapping[str, Any], width: int) -> list[np.ndarray]:
    """Centers of each level, float32 (k, width), of what `CodebookFit.state` returned."""
    every = np.frombuffer(base64.b64decode(state["centers"]), "<f4").reshape(-1, width)
    return np.split(every, np.cumsum(state["codes"])[:-1])


def encode(state: Mapping[str, Any], vectors: np.ndarray) -> np.ndarray:
    """Content vectors (n, width) → codes, int64 (n, L); -1 where a number is missing.

    Vectors are taken as float32, as they were fitted; what the levels leave of them is float64.

    Example:

    >>> fit = CodebookFit(kd.SemanticIds("codes", "v", 1, levels=2, codes=2))
    >>> fit.update(np.array([[0.0], [1.0], [8.0], [9.0]]))
    >>> encode(fit.state(), np.array([[8.9], [0.1], [np.nan]])).tolist()
    [[1, 1], [0, 0], [-1, -1]]
    """
    vectors, finite = _float32(vectors)
    residual = np.where(finite[:, None], vectors, np.float32(0)).astype(np.float64)
    codes = []
    for centers in codebooks(state, vectors.shape[1]):
        codes.append(nearest(residual, centers))
        residual = residual - centers[codes[-1]]
    return np.where(finite[:, None], np.stack(codes, axis=1), PADDING)


def _float32(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, width) as float32, and whether all numbers of each are finite then."""
    with np.errstate(over="ignore"):
        narrow = vectors.astype(np.float32)
    return narrow, np.all(np.isfinite(narrow), axis=1)


def statistics(codes: np.ndarray) -> dict[str, Any]:
    """Statistics of the codes (n, L) of different vectors: share with a code of their own, use and perplexity of each level.

    Example:

    >>> statistics(np.array([[0, 0], [0, 1], [1, 1], [1, 1]]))
    {'vectors': 4, 'unique': 0.5, 'used': [2, 2], 'perplexity': [2.0, 1.75]}
    """
    if not len(codes):
        return {"vectors": 0, "unique": 1.0, "used": [0] * codes.shape[1], "perplexity": [0.0] * codes.shape[1]}
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    shares = [np.unique(column, return_counts=True)[1] / len(codes) for column in codes.T]
    perplexity = [round(float(np.exp(-(share * np.log(share)).sum())), 2) for share in shares]
    unique = float((counts == 1).sum() / len(codes))
    return {"vectors": len(codes), "unique": unique, "used": [len(share) for share in shares], "perplexity": perplexity}
