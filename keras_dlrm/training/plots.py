"""The charts of a report: learning curves, reliability, distribution of the predictions, gains."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_dlrm.training.charts import Chart, spread
from keras_dlrm.training.report import CURVES, curve, wilson

# Marks of an axis of probabilities in log-odds.
_CHANCES = (1e-5, 1e-4, 0.001, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.999)


def learning_curves(history: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """AUC and log loss by epoch: an SVG for each curve that the history has."""
    charts = {}
    for name, keys in CURVES.items():
        train, valid = curve(history, keys)
        epochs = max(len(train), len(valid))
        if not np.isfinite([*train, *valid]).any():
            continue
        numbers = range(1, epochs + 1)
        step = -(-epochs // 10)
        marks = [(float(i), str(i)) for i in numbers if i % step == 0 or i == 1]
        ends = (0.5, 1.5) if epochs == 1 else (1.0, float(epochs))
        chart = Chart(ends, spread([*train, *valid]), "epoch", name, marks)
        for values, kind in ((train, "train"), (valid, "valid")):
            if values:
                chart.line(numbers, values, kind, lambda x, y, kind=kind: f"epoch {x:.0f}, {kind}: {y:.4f}")  # type: ignore[misc]
            if len(values) == 1 and np.isfinite(values[0]):
                chart.note(1, values[0], f"{values[0]:.4f}")
        finite = np.where(np.isfinite(valid), valid, np.nan)
        if epochs > 1 and np.isfinite(finite).any():
            best = int(np.nanargmax(finite) if name == "AUC" else np.nanargmin(finite))
            chart.ring(best + 1, valid[best], "valid")
        charts[name] = chart.svg(f"{name} by epoch")
    return charts


def reliability_chart(points: Mapping[str, Sequence[float]]) -> str:
    """Share of clicks by mean prediction, with 95% intervals."""
    predicted, observed, rows = (np.asarray(points[name]) for name in ("predicted", "observed", "rows"))
    low, high = wilson(observed, rows)
    limit = min(1.0, 1.05 * float(max(predicted.max(), high.max(), 0.001)))
    chart = Chart((0, limit), (0, limit), "mean prediction", "observed click rate")
    chart.line([0, limit], [0, limit], "ideal")
    for x, bottom, top in zip(predicted, low, high, strict=True):
        chart.line([x, x], [max(bottom, 0), min(top, limit)], "valid thin")
    chart.line(predicted, observed, "valid", lambda x, y: f"predicted {x:.4f}, observed {y:.4f}")
    return chart.svg("observed click rate by prediction")


def distribution_chart(distribution: Mapping[str, Sequence[float]]) -> str:
    """Histograms of the predictions for clicks and non-clicks, in log-odds."""
    edges = [math.log(p) - math.log1p(-p) for p in distribution["edges"]]
    ends = edges[0], edges[-1]
    tallest = max([*distribution["clicks"], *distribution["others"], 1e-9])
    chart = Chart(ends, (0, 1.05 * tallest), "prediction (log-odds scale)", "share of the class", _chances(*ends))
    for kind, name in (("others", "non-clicks"), ("clicks", "clicks")):
        for i, share in enumerate(distribution[kind]):
            low, high = distribution["edges"][i : i + 2]
            if share:
                chart.bar((edges[i], edges[i + 1]), (0, share), kind, f"{100 * share:.2f}% of the {name}: {low:.4f} … {high:.4f}")
    return chart.svg("distribution of the predictions for clicks and non-clicks")


def _chances(low: float, high: float) -> list[tuple[float, str]]:
    """Marks of an axis of log-odds, as percentages, far enough from each other; the ends where it has no round ones."""
    marks: list[tuple[float, str]] = []
    for p in _CHANCES:
        odds = math.log(p / (1 - p))
        if low <= odds <= high and (not marks or odds - marks[-1][0] > 0.12 * (high - low)):
            marks.append((odds, f"{100 * p:g}%"))
    return marks if len(marks) > 1 else [(odds, f"{100 / (1 + math.exp(-odds)):.3g}%") for odds in (low, (low + high) / 2, high)]


def gains_chart(lift: Mapping[str, Sequence[float]]) -> str:
    """Share of the clicks among the rows with the highest predictions."""
    chart = Chart((0, 1), (0, 1), "share of rows, highest predictions first", "share of clicks")
    chart.line([0, 1], [0, 1], "ideal")
    rows, gain = [0.0, *lift["reached"]], [0.0, *lift["gain"]]
    chart.line(rows, gain, "valid", lambda x, y: f"{100 * y:.1f}% of the clicks in {100 * x:.1f}% of the rows")
    return chart.svg("share of clicks by share of rows")


def lift_chart(lift: Mapping[str, Sequence[float]]) -> str:
    """Click rate of each bin over that of all rows."""
    chart = Chart((0, 1), (0, 1.05 * max(*lift["lift"], 1.0)), "share of rows, highest predictions first", "lift")
    for i, (value, end) in enumerate(zip(lift["lift"], lift["reached"], strict=True)):
        start = lift["reached"][i - 1] if i else 0.0
        chart.bar((start + 0.01, max(end - 0.01, start + 0.01)), (0, value), "valid", f"bin {i + 1}: lift {value:.3f}")
    chart.line([0, 1], [1, 1], "ideal")
    return chart.svg("lift by share of rows")
