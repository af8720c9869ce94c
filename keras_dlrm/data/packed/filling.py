"""Batches of a wanted number of rows: cut from parts of any size, put together, and filled up."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from keras_dlrm.schema.columns import PADDING

# An array, a frame, or a dictionary or tuple of these with as many rows each.
T = TypeVar("T")


def row_count(rows: Any) -> int:
    """Number of rows.

    Example:

    >>> row_count(({"dense": np.zeros((3, 2))}, np.zeros(3)))
    3
    """
    while isinstance(rows, (dict, tuple)):
        rows = next(iter(rows.values() if isinstance(rows, dict) else rows))
    return len(rows)


def cut(rows: T, start: int, stop: int) -> T:
    """Rows `start … stop - 1`."""
    return _over([rows], lambda parts: parts[0][start:stop])


def joined(parts: Sequence[T]) -> T:
    """Parts one after another as one.

    Example:

    >>> joined([(np.array([1, 2]),), (np.array([3]),)])
    (array([1, 2, 3]),)
    """
    parts = [part for part in parts if row_count(part)] or parts[:1]
    return parts[0] if len(parts) == 1 else _over(parts, _concatenated)


def refilled(parts: Iterable[T], size: int) -> Iterator[T]:
    """Parts of `size` rows made of parts of any size; the last one has the rest.

    Example:

    >>> [part.tolist() for part in refilled([np.arange(3), np.arange(4)], size=5)]
    [[0, 1, 2, 0, 1], [2, 3]]
    """
    held: list[T] = []
    rows = 0
    for part in parts:
        held.append(part)
        rows += row_count(part)
        if rows >= size:
            whole = joined(held)
            last = rows - rows % size
            yield from (cut(whole, start, start + size) for start in range(0, last, size))
            held, rows = [cut(whole, last, rows)], rows - last
    if rows:
        yield joined(held)


def padded(batch: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """A packed batch, or its label, with rows of zeros and padding behind it, up to `rows`."""
    missing = rows - row_count(batch)
    if not missing:
        return batch
    return {
        key: np.concatenate([array, np.full((missing, *array.shape[1:]), PADDING if key == "sparse" else 0, array.dtype)])
        for key, array in batch.items()
    }


def _concatenated(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return functools.reduce(lambda first, second: first.vstack(second), parts)


def _over(trees: Sequence[Any], function: Any) -> Any:
    """A tree of a function's results for the arrays at the same place of some trees."""
    first = trees[0]
    if isinstance(first, dict):
        return {key: _over([tree[key] for tree in trees], function) for key in first}
    if isinstance(first, tuple):
        entries = [_over(entry, function) for entry in zip(*trees, strict=True)]
        return type(first)(*entries) if hasattr(first, "_fields") else tuple(entries)
    return function(trees)
