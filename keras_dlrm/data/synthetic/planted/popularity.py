"""Popularity of a planted log's ids: Zipf-distributed over each table, in random order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_dlrm.data.synthetic.log import zipf_distribution


class Popularity:
    """Zipf distributions by table size, and the order of popularity of each table's ids; `random` makes its source."""

    def __init__(self, exponent: float, random: Callable[[str], np.random.Generator]) -> None:
        self._exponent, self._random = exponent, random
        self._distributions: dict[int, np.ndarray] = {}
        self._orders: dict[str, np.ndarray] = {}

    def distribution(self, size: int) -> np.ndarray:
        """Cumulative probabilities of the ranks."""
        if size not in self._distributions:
            self._distributions[size] = zipf_distribution(size, self._exponent)
        return self._distributions[size]

    def order(self, table: str, size: int) -> np.ndarray:
        """The ids of a table, the most popular one first: int32 (size,)."""
        if table not in self._orders:
            self._orders[table] = self._random(table).permutation(size).astype(np.int32)
        return self._orders[table]

    def by_id(self, table: str, size: int) -> np.ndarray:
        """Probability of each id: float64 (size,)."""
        out = np.empty(size)
        out[self.order(table, size)] = np.diff(self.distribution(size), prepend=0.0)
        return out
