"""Crossed columns: `Crossed`, and their ids from the ids of other columns (NumPy)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.hashing import LARGEST, fold, mix
from keras_dlrm.support.arguments import integer

BUCKETS = 2**20


def Crossed(name: str, columns: Sequence[str], buckets: int = BUCKETS) -> Categorical:
    """A sparse column made of others: each combination of their values is hashed to one of its ids.

    Data and requests do not have it. `Schema.pack`, a preprocessor and the graph of an exported model compute it from the ids of
    its parents, so that they agree whatever the parents hold: integers, texts, hashed values or parts of a time.

    Ids are crossed, not raw values. They are what `pack` gets, what a packed log holds and what any runtime computes with, and
    `Preprocessor.grow` keeps them. So values that a parent's vocabulary does not know are one value in the cross, too, or as many
    as it has `oov_rows`; with `hashed=True` a parent has no unseen values. Where a parent is missing, the cross is.

    Args:
        name: Column name.
        columns: Names of two or more sparse columns, its parents, in an order that the ids depend on. They have one value a row.
        buckets: Rows of the table. Combinations that meet in one row share it.

    Returns:
        A `Categorical` with `crossed=columns` and `vocabulary_size=buckets`.

    Raises:
        ValueError, TypeError: fewer than two parents, one twice or the column itself, fewer than one bucket. `Schema` refuses
            parents that it does not have.

    Example:

    >>> user, hour = kd.Categorical("user", 1000), kd.Categorical("hour", 24)
    >>> schema = kd.Schema(categorical=[user, hour, Crossed("user_hour", ["user", "hour"], buckets=500)])
    >>> schema.pack({"user": [7, 8, -1], "hour": [13, 13, 13]})["sparse"].tolist()
    [[7, 13, 413], [8, 13, 215], [-1, 13, -1]]

    Source: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems", equation 1, with the hashing of Weinberger et al.
    2009, "Feature Hashing for Large Scale Multitask Learning".
    """
    integer(f"Crossed column {name!r}", "buckets", buckets, 1, LARGEST)
    return Categorical(name, buckets, oov=None, crossed=columns)  # type: ignore[arg-type]


def own(columns: Iterable[Categorical]) -> list[Categorical]:
    """Sparse columns that have values of their own: all but the crossed ones."""
    return [column for column in columns if not column.crossed]


def pairs(columns: Sequence[Categorical]) -> list[tuple[int, list[int]]]:
    """Number of each crossed column among the sparse columns, and those of its parents."""
    numbers = {column.name: i for i, column in enumerate(columns)}
    return [(i, [numbers[name] for name in column.crossed]) for i, column in enumerate(columns) if column.crossed]


def bucket(ids: Sequence[np.ndarray], buckets: int) -> np.ndarray:
    """Ids of each parent, 31 bits (n,), none missing → ids of the cross, int64 (n,); `embeddings.table_rows.cross` in a graph.

    Hashes are chained in 32 bits, which wrap around: no number of parents or size of their tables overflows.

    Example:

    >>> bucket([np.array([7, 8]), np.array([13, 13])], 500).tolist()
    [413, 215]
    """
    mixed = np.zeros(len(ids[0]), np.uint32)
    for parent in ids:
        mixed = mix(mixed + parent.astype(np.uint32))
    return (mixed & np.uint32(LARGEST)).astype(np.int64) % buckets


def fill(schema: Any, sparse: np.ndarray) -> np.ndarray:
    """Write the ids of the crossed columns of a schema into packed ids (B, W), which are returned.

    A parent's id out of range counts as its OOV row, as in the graph.
    """
    for number, parents in pairs(schema.categorical):
        known = [_known(schema.categorical[i], sparse[:, schema.offsets[i]]) for i in parents]
        complete = np.all([ids != PADDING for ids in known], axis=0)
        crossed = bucket([np.where(complete, ids, 0) for ids in known], int(schema.categorical[number].vocabulary_size or 1))
        sparse[:, schema.offsets[number]] = np.where(complete, crossed, PADDING)
    return sparse


def _known(column: Categorical, ids: np.ndarray) -> np.ndarray:
    """Ids of a column as its table sees them, -1 where missing."""
    ids = fold(ids)
    inside = (ids >= 0) & (column.hashed | (ids < int(column.vocabulary_size or 0)))
    return np.where(inside | (ids == PADDING), ids, PADDING if column.oov is None else column.oov)


def packed(schema: Any, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Ids by column, int64 (B, hotness), but for the crossed ones, which are computed → ids of a packed batch, int64 (B, W)."""
    rows = len(arrays[own(schema.categorical)[0].name])
    empty = np.full((rows, 1), PADDING, np.int64)
    return fill(schema, np.concatenate([arrays.get(name, empty) for name in schema.categorical_names], axis=1))
