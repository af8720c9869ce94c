"""`Drift` and `ColdItems`: changes of a planted log over time."""

import dataclasses
import math

import numpy as np

from keras_dlrm.support.arguments import integer, number


@dataclasses.dataclass(frozen=True)
class Drift:
    """Slow change of a planted log with the position of a row in time.

    Args:
        rows: Over how many rows the change below takes place. It continues at this pace.
        effects: 1 minus the correlation of the effects (of ids and of dense values, the linear part) at row `rows` with
            those at row 0: 0 is no change, 1 is effects that have nothing to do with the first ones. They turn, so
            each column's strength stays the same. Nonlinear functions of dense values and products of columns stay as
            they are.
        popularity: Share of the ids that is drawn from a new order of popularity at row `rows`: 0 is no change, 1 is
            another order. An id's effect does not follow its popularity, so what there is to learn becomes less.
        generations: Ids that take turns at a place in the order of popularity over `rows` rows, as items that are sold out do
            with new ones: a table of V rows has `V // generations` places, each changes hands at times of its own, and an id
            has the effects of its place, so what there is to learn stays as much. When all had their turn, the first ids come back.

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
    generations: int = 1

    def __post_init__(self) -> None:
        integer("Drift", "rows", self.rows)
        for name in ("effects", "popularity"):
            if not 0.0 <= number("Drift", name, getattr(self, name)) <= 1.0:
                raise ValueError(f"Drift: {name}={getattr(self, name)!r} must lie between 0 and 1.")
        integer("Drift", "generations", self.generations)
        if self.effects == self.popularity == 0.0 and self.generations == 1:
            raise ValueError(
                "Drift: effects=0, popularity=0 and generations=1, so nothing changes; give one of them, or no drift."
            )

    def angle(self, positions: np.ndarray) -> np.ndarray:
        """Angle by which the effects have turned at given positions."""
        return math.acos(1.0 - self.effects) * np.asarray(positions, np.float64) / self.rows

    def era(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of the order of popularity at given positions, and the share that the next one has already."""
        progress = self.popularity * np.asarray(positions, np.float64) / self.rows
        number = np.floor(progress)
        return number.astype(np.int64), progress - number

    def places(self, size: int) -> int:
        """Places in the order of popularity of a table of `size` rows."""
        return max(1, size // self.generations)

    def holder(self, places: np.ndarray, phase: np.ndarray, positions: np.ndarray, size: int) -> np.ndarray:
        """Ids (B, k), of a table of `size` rows, that hold given places (B, k) at positions (B,).

        Args:
            places: Integers from 0 to `places(size) - 1`.
            phase: Share of a turn by which each place is ahead of time, from 0 to 1.
            positions: Positions in time.
            size: Rows of the table.
        """
        turn = np.floor(self.generations * positions[:, None] / self.rows + phase[places]).astype(np.int64)
        return places + self.places(size) * (turn % min(self.generations, size))


def turned(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The weighted mean of effects (n,), and a direction as strong as they are, at a right angle to them.

    `mean + cos(a) (first - mean) + sin(a) direction` has the same weighted mean and variance at every angle. `second` is
    any independent draw; `weights` (n,), whose sum is 1, say how often each is met. Where there is no other direction
    (fewer than three effects), it is 0 and the effects are to stay as they are.
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


@dataclasses.dataclass(frozen=True)
class ColdItems:
    """A share of each table's ids that appears only from a certain time on, or only in certain parts.

    Until then, an id that ranks next to it in popularity is drawn in its place.

    Args:
        share: Share of each table's rows, spread evenly over popular and rare ones. Tables with fewer than
            `1 / share` rows may have none.
        arrive: `(first, last)`: each cold id appears from a position of its own on, drawn evenly between them. By
            default they are there from the beginning of the parts that have them.
        parts: The parts that have them, such as `("test",)`; all by default.
        tables: Names of the tables that have them; all by default.

    Raises:
        ValueError, TypeError: a value is out of range, or the items would not be cold anywhere.

    Example:

    >>> ColdItems(0.1, parts=("test",)).parts
    ('test',)
    """

    share: float
    arrive: tuple[int, int] | None = None
    parts: tuple[str, ...] | None = None
    tables: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        share = self.share
        if isinstance(share, (bool, str)) or not 0.0 < float(share) < 1.0:
            raise ValueError(f"ColdItems: share={share!r} must lie between 0 and 1.")
        if self.arrive is None and self.parts is None:
            raise ValueError("ColdItems: give arrive=(first, last), or the parts that have them; else none is cold.")
        if self.arrive is not None:
            if not isinstance(self.arrive, (tuple, list)) or len(self.arrive) != 2:
                raise ValueError(f"ColdItems: arrive={self.arrive!r} must be a pair (first, last) of positions.")
            low, high = (integer("ColdItems", f"arrive[{i}]", v, 0) for i, v in enumerate(self.arrive))
            if low > high:
                raise ValueError(f"ColdItems: arrive={self.arrive!r} must be in order: first, then last.")
            object.__setattr__(self, "arrive", (low, high))
        for field in ("parts", "tables"):
            names = getattr(self, field)
            if names is not None:
                if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                    raise TypeError(f"ColdItems: {field}={names!r} must be a list of names, such as ('test',).")
                object.__setattr__(self, field, tuple(names))

    def plan(self, order: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A choice of the cold ids of a table, whose ids come by popularity (n,).

        Returns:
            `(arrival, stand_in)`, both (n,) by id: the position from which on a cold id is there (-1 for the others),
            and the id that is drawn until then.
        """
        size = len(order)
        # Every 1/share-th rank, from a random one on.
        steps = np.floor(np.arange(size + 1) * self.share + random.random())
        cold = np.diff(steps) > 0
        if cold.all():
            cold[0] = False
        low, high = self.arrive or (0, 0)
        warm = np.flatnonzero(~cold)
        nearest = warm[np.clip(np.searchsorted(warm, np.arange(size)), 0, len(warm) - 1)]
        arrival, stand_in = np.empty(size, np.int64), np.empty(size, order.dtype)
        arrival[order] = np.where(cold, random.integers(low, high + 1, size), -1)
        stand_in[order] = order[nearest]
        return arrival, stand_in

    def apply(
        self, ids: np.ndarray, plan: tuple[np.ndarray, np.ndarray], part: str, positions: np.ndarray
    ) -> np.ndarray:
        """Ids (B, k) of rows at given positions (B,), those that are not there yet replaced."""
        arrival, stand_in = plan
        present = self.parts is None or part in self.parts
        absent = arrival[ids] > positions[:, None] if present else arrival[ids] >= 0
        return np.where(absent, stand_in[ids], ids)
