"""Normal distribution: quantiles and shares, for arrays."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

_GRID = np.linspace(-6.0, 6.0, 2401)
_SHARES = np.array([NormalDist().cdf(x) for x in _GRID])


def normal_share(scores: np.ndarray) -> np.ndarray:
    """Share of a standard normal distribution below each score, to 6 digits.

    Example:

    >>> normal_share(np.array([0.0]))
    array([0.5])
    """
    return np.interp(scores, _GRID, _SHARES)


def normal_score(shares: np.ndarray) -> np.ndarray:
    """Inverse of `normal_share`."""
    return np.interp(shares, _SHARES, _GRID)
