"""`Drift`: change of a planted log over time, in effects and in popularity."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from keras_dlrm.support.arguments import integer, number


@dataclasses.dataclass(frozen=True)
class Drift:
    """Slow change of a planted log with the position of a row in time.

    Args:
        rows: Over how many rows the change below takes place. It goes on at this pace.
        effects: 1 minus the correlation of the effects (of ids and of dense values, the linear part) at row `rows` with
            those at row 0: 0 is no change, 1 is effects that have nothing to do with the first ones. They turn, so
            each column's strength stays the same. Nonlinear functions of dense values and products of columns stay as
            they are.
        popularity: Share of the ids that is drawn from a new order of popularity at row `rows`: 0 is no change, 1 is
            another order. An id's effect does not follow its popularity, so what there is to learn becomes less.

    Raises:
        ValueError: a value is out of range, or nothing changes.

    Example:

    >>> drift = Drift(rows=1000, effects=1.0)
    >>> np.cos(drift.angle(np.array([0, 500, 1000]))).round(3).tolist()
    [1.0, 0.707, 0.0]
    """

    rows: int
    effects: float = 0.0
    popularity: float = 0.0

    def __post_init__(self) -> None:
        integer("Drift", "rows", self.rows)
        for name in ("effects", "popularity"):
            if not 0.0 <= number("Drift", name, getattr(self, name)) <= 1.0:
                raise ValueError(f"Drift: {name}={getattr(self, name)!r} must lie between 0 and 1.")
        if self.effects == self.popularity == 0.0:
            raise ValueError("Drift: effects=0 and popularity=0, so nothing changes; give one of them, or no drift.")

    def angle(self, positions: np.ndarray) -> np.ndarray:
        """Angle by which the effects have turned at given positions."""
        return math.acos(1.0 - self.effects) * np.asarray(positions, np.float64) / self.rows

    def era(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of the order of popularity at given positions, and the share that the next one has already."""
        progress = self.popularity * np.asarray(positions, np.float64) / self.rows
        number = np.floor(progress)
        return number.astype(np.int64), progress - number


def turned(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Effects (n,) as strong as the first, at a right angle to them; `second` is any independent draw.

    `weights` (n,) say how often each is met; their sum is 1.

    Returns:
        `(mean, direction)`: `mean + cos(a) (first - mean) + sin(a) direction` has the same weighted mean and variance
        at every angle. Where there is no other direction (fewer than three effects), `direction` is 0 and the effects
        are to stay as they are.
    """
    mean = float(weights @ first)
    centered, other = first - mean, second - weights @ second
    strength = float(weights @ centered**2)
    if strength > 0.0:
        other = other - centered * (weights @ (centered * other)) / strength
    size = float(weights @ other**2)
    if len(first) < 3 or size <= 1e-12 * max(strength, 1e-300):
        return mean, np.zeros_like(first)
    return mean, other * np.sqrt(strength / size)
