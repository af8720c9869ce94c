"""Rows that training never touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from keras_dlrm import backend


def untrained_rows(collection: Any) -> dict[str, np.ndarray]:
    """Untrained rows by table: bool (rows,), of a built `EmbeddingCollection`.

    A seed draws the same rows on every backend, so they are drawn again, part by part, and compared. That finds rows of
    ids that no training example had, whatever the optimizer. It does not find those of a model whose tables were set,
    converted or grown after they were drawn.

    Example:

    >>> layer = kd.layers.EmbeddingCollection(kd.Schema(categorical=[kd.Categorical("a", 3)]), 2)
    >>> layer.build()
    >>> layer.set_embedding_tables({"a": [*layer.embedding_tables()["a"][:2], [1.0, 1.0]]})
    >>> untrained_rows(layer)["a"].tolist()
    [True, True, False]
    """
    untrained = {}
    for stack, variable in zip(collection.stacks, collection.tables, strict=True):
        same = np.zeros(stack.rows, bool)
        for start, drawn in collection.initial_rows(stack).parts(stack.width):
            rows = backend.read(variable, start, start + len(drawn))
            if collection.table_dtype != "float32":
                drawn = drawn.astype(getattr(ml_dtypes, collection.table_dtype)).astype(np.float32)
            same[start : start + len(drawn)] = (rows == drawn).all(axis=1)
        for table in stack.tables:
            start = stack.starts[table.name]
            untrained[table.name] = same[start : start + table.rows]
    return untrained


def rows_to_prune(collection: Any, prune: str | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Rows that an export leaves out, by table: bool (rows,).

    An OOV row stays, and so do all rows of a table that is split in two (`QuotientRemainder`): each stands for many ids.

    Args:
        collection: A built `EmbeddingCollection`.
        prune: `"untrained"`, or a mapping table name → bool (rows,), true for rows to leave out.

    Raises:
        KeyError: an unknown table.
        TypeError: masks that are not bool.
        ValueError: an unknown word, or a mask of the wrong shape.

    Example:

    >>> layer = kd.layers.EmbeddingCollection(kd.Schema(categorical=[kd.Categorical("a", 3)]), 2)
    >>> layer.build()
    >>> rows_to_prune(layer, "untrained")["a"].tolist()  # row 0 is the OOV row
    [False, True, True]
    """
    columns = {c.table_name: c for c in collection.schema.categorical}
    if isinstance(prune, str):
        if prune != "untrained":
            raise ValueError(f"prune={prune!r} is unknown; use 'untrained', or a mapping table name → bool (rows,).")
        masks = {name: mask for name, mask in untrained_rows(collection).items() if name in columns}
    else:
        sizes = {table.name: table.rows for stack in collection.stacks for table in stack.tables}
        masks = {}
        for name, rows in prune.items():
            if name not in columns or name not in sizes:
                allowed = sorted(set(columns) & set(sizes))
                raise KeyError(f"prune: unknown table {name!r}, or one that is split in two; there are {allowed}.")
            mask = np.array(rows)
            if mask.dtype != bool:
                raise TypeError(f"prune: the mask of table {name!r} has dtype {mask.dtype}; it must be bool.")
            if mask.shape != (sizes[name],):
                raise ValueError(f"prune: the mask of table {name!r} has shape {mask.shape}; it must be ({sizes[name]},).")
            masks[name] = mask
    for name, mask in masks.items():
        column = columns[name]
        if column.oov is not None and not column.hashed:
            mask[column.oov : column.oov + column.oov_rows] = False
    return masks
