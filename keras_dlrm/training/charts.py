"""Charts as inline SVG: their colors are classes of the page's style, so that they follow its light and dark scheme."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

_WIDTH, _HEIGHT = 420, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 10, 42
_SUFFICES = 60  # points up to which each gets a dot


@dataclasses.dataclass
class Chart:
    """Axes, and what was drawn into them; `svg` is the picture.

    Args:
        x, y: Lowest and highest value of each axis.
        x_label, y_label: Names of the axes.
        x_ticks: Values and texts of the marks on the x axis; round numbers by default.

    Example:

    >>> chart = Chart((0, 1), (0, 1), "share of rows", "share of clicks")
    >>> chart.line([0, 1], [0, 1], "valid")
    >>> chart.svg("gains").startswith('<svg viewBox="0 0 420 270" role="img" aria-label="gains">')
    True
    """

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]] | None = None
    _marks: list[str] = dataclasses.field(default_factory=list, init=False)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates of a value in the picture."""
        right = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + right * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    def line(self, xs: Iterable[float], ys: Iterable[float], kind: str, name: Callable[[float, float], str] | None = None) -> None:
        """Join points; `kind` is a class of the style. With `name` each gets a dot whose tooltip that is."""
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in points))
        self._marks.append(f'<polyline class="line {kind}" points="{places}"/>')
        if name is not None and len(points) <= _SUFFICES:
            for x, y in points:
                self.dot(x, y, kind, name(x, y))

    def dot(self, x: float, y: float, kind: str, name: str) -> None:
        """A point with a tooltip."""
        x, y = self.place(x, y)
        self._marks.append(f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"><title>{escape(name)}</title></circle>')

    def ring(self, x: float, y: float, kind: str) -> None:
        """A circle around a point."""
        x, y = self.place(x, y)
        self._marks.append(f'<circle class="ring {kind}" cx="{x:.1f}" cy="{y:.1f}" r="7"/>')

    def note(self, x: float, y: float, text: str) -> None:
        """A text to the right of a point."""
        x, y = self.place(x, y)
        self._marks.append(f'<text class="name" x="{x + 9:.1f}" y="{y + 4:.1f}">{escape(text)}</text>')

    def bar(self, x: tuple[float, float], y: tuple[float, float], kind: str, name: str) -> None:
        """A rectangle from one corner to the other, with a tooltip."""
        (left, bottom), (right, top) = self.place(x[0], y[0]), self.place(x[1], y[1])
        box = f'x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0.5):.1f}" height="{max(bottom - top, 0):.1f}"'
        self._marks.append(f'<rect class="bar {kind}" {box}><title>{escape(name)}</title></rect>')

    def svg(self, label: str) -> str:
        """The picture; `label` is its text for those who do not see it."""
        left, bottom = self.place(self.x[0], self.y[0])
        right, top = self.place(self.x[1], self.y[1])
        parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">']
        for value, text in self.x_ticks if self.x_ticks is not None else ticks(*self.x):
            x = self.place(value, 0)[0]
            parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"/>')
            parts.append(f'<text class="middle" x="{x:.1f}" y="{bottom + 16:.1f}">{escape(text)}</text>')
        for value, text in ticks(*self.y):
            y = self.place(0, value)[1]
            parts.append(f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="end" x="{left - 6:.1f}" y="{y + 4:.1f}">{escape(text)}</text>')
        parts.append(f'<path class="axis" d="M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}"/>')
        middle = (top + bottom) / 2
        parts.append(f'<text class="middle name" x="{(left + right) / 2:.1f}" y="{_HEIGHT - 6}">{escape(self.x_label)}</text>')
        turned = f'transform="rotate(-90 12 {middle:.1f})" x="12" y="{middle:.1f}"'
        parts.append(f'<text class="middle name" {turned}>{escape(self.y_label)}</text>')
        return "".join([*parts, *self._marks, "</svg>"])


def ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Round numbers between two numbers, low < high, and their texts with as many decimals as they need.

    Example:

    >>> ticks(0.0, 1.0)
    [(0.0, '0.0'), (0.2, '0.2'), (0.4, '0.4'), (0.6, '0.6'), (0.8, '0.8'), (1.0, '1.0')]
    """
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    values = [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, f"{value:,.{decimals}f}") for value in values]


def spread(values: Iterable[float], room: float = 0.08) -> tuple[float, float]:
    """Ends of an axis that holds values: their range, and some room on both sides.

    Example:

    >>> spread([0.0, 1.0], 0.5)
    (-0.5, 1.5)
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    around = max((high - low) * room, 1e-3 * abs(high), 1e-6)
    return low - around, high + around
