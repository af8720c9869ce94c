"""Reordering of the first top layer's rows, where another library orders vectors or products differently."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def products(order: Sequence[int], pairs: tuple[np.ndarray, np.ndarray], self_interaction: bool = False) -> np.ndarray:
    """Places of the products of `DotInteraction` among another library's, int64 (P,).

    Args:
        order: Place of each of our vectors among the other library's.
        pairs: Which two vectors, in that library's order, each of its products is of.
        self_interaction: Whether a vector's product with itself is among them.

    Example, of three vectors and an upper triangle:

    >>> products([2, 0, 1], np.triu_indices(3, 1)).tolist()
    [1, 2, 0]
    """
    count = len(order)
    place = np.full((count, count), -1, np.int64)
    place[pairs] = place[pairs[::-1]] = np.arange(len(pairs[0]))
    rows, columns = np.tril_indices(count, 0 if self_interaction else -1)
    theirs = np.asarray(order)
    return place[theirs[rows], theirs[columns]]


def blocks(order: Sequence[int], width: int) -> np.ndarray:
    """Places of the numbers of our vectors, side by side and `width` wide, among another library's.

    Example:

    >>> blocks([1, 0], 2).tolist()
    [2, 3, 0, 1]
    """
    return (np.asarray(order)[:, None] * width + np.arange(width)).ravel()


def placed(values: np.ndarray, places: np.ndarray, axis: int = -1) -> np.ndarray:
    """The inverse of `np.take(theirs, places, axis)`: our values at the other library's places.

    Example:

    >>> placed(np.array([7, 8, 9]), np.array([2, 0, 1])).tolist()
    [8, 9, 7]
    """
    out = np.empty_like(values)
    moved = np.moveaxis(out, axis, 0)
    moved[places] = np.moveaxis(values, axis, 0)
    return out
