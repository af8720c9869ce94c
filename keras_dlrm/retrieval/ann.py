"""Vectors of an index in the libraries for approximate nearest neighbors: FAISS and usearch."""

from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.retrieval.index import Index
from keras_dlrm.support.installs import require

_ROWS = 2**16


def to_faiss(index: Index) -> Any:
    """The vectors and ids of an index as a FAISS index, which searches all by inner products.

    Args:
        index: The index.

    Returns:
        A `faiss.IndexIDMap2` of an `IndexFlatIP`. Its ids are those of the items, or their rows where they are texts. Products are
        before the division by the temperature.

    Raises:
        ImportError: FAISS is not installed.

    Example: see docs/recommending.md.
    """
    require("to_faiss", "faiss")
    import faiss

    made = faiss.IndexIDMap2(faiss.IndexFlatIP(index.content.vectors["codes"].shape[1]))
    for rows in _parts(index):
        made.add_with_ids(index.vectors(rows), keys(index)[rows])
    return made


def to_usearch(index: Index) -> Any:
    """The vectors and ids of an index as a usearch index, a graph (HNSW) that is searched by inner products.

    Args:
        index: The index.

    Returns:
        A `usearch.index.Index` of float32. Its keys are the ids of the items, or their rows where they are texts or negative. Its
        distances are 1 minus the product, before the division by the temperature.

    Raises:
        ImportError: usearch is not installed.

    Example: see docs/recommending.md.
    """
    require("to_usearch", "usearch")
    from usearch.index import Index as Graph

    made, names = Graph(ndim=index.content.vectors["codes"].shape[1], metric="ip", dtype="f32"), keys(index)
    names = np.arange(len(index)) if names.min() < 0 else names
    for rows in _parts(index):
        made.add(names[rows].astype(np.uint64), index.vectors(rows))
    return made


def keys(index: Index) -> np.ndarray:
    """Ids of an index that are whole numbers, or else its rows: int64 (N,)."""
    ids = index.content.ids
    return ids.to_numpy() if ids.dtype == pl.Int64 else np.arange(len(ids))


def _parts(index: Index) -> list[slice]:
    return [slice(start, min(start + _ROWS, len(index))) for start in range(0, len(index), _ROWS)]
