"""The report of a tuning as one HTML file: scores by trial, scores by value, and tables."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from keras_dlrm.training.charts import Chart, spread
from keras_dlrm.training.page import Row, document, hint, table
from keras_dlrm.training.tuning_space import Choice, Range, Space

_TRIAL = {"trial": "trial", "state": "state", "score": "score", "auc": "AUC", "logloss": "log loss", "ne": "NE",
          "epochs": "epochs", "seconds": "seconds"}  # fmt: skip
_VALUE = {"value": "", "before": "before", "best": "best", "bar": "", "importance": "importance"}


def tuning_page(title: str, trials: Sequence[Row], best: int, values: Sequence[Row], space: Space) -> str:
    """The report as HTML.

    Args:
        title: Heading of the page.
        trials: As of `Tuning.trials`, as mappings.
        best: Number of the best trial.
        values: As of `Tuning.values`.
        space: The search space.
    """
    states = [trial["state"] for trial in trials]
    counts = (f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    facts = " · ".join(f"<span>{escape(fact)}</span>" for fact in (f"{len(trials)} trials", *counts, f"best: trial {best}"))
    scored = [trial for trial in trials if trial["score"] is not None]
    ends = _ends([trial["score"] for trial in scored])
    charts = [("Score by trial", _history(scored, ends))]
    charts += [(f"Score by {key}", _slice(key, space[key], scored, ends)) for key in space]
    drawn = (f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in charts)
    errors = [trial for trial in trials if trial.get("error")]
    keys = {**_TRIAL, **{key: key for key in space}}
    ranked = sorted(trials, key=lambda trial: (trial["score"] is None, -(trial["score"] or 0.0)))
    about = (
        "Scores are of the validation part: AUC minus normalized entropy, AUC, or minus log loss, as the experiment's monitor has "
        "it. The best of many trials is a little better there than on other rows; train it and look at the test part."
    )
    return document(title, [
        f"<header><h1>{escape(title)}</h1>{hint(facts)}</header>", hint(about),
        "<h2>Values</h2>", table(_shown(values), _VALUE),
        "<h2>Charts</h2>", hint("Blue: complete trials. Gray: pruned ones, by the score that they had. Far below: at the bottom."),
        f'<div class="charts">{"".join(drawn)}</div>',
        "<h2>Trials</h2>", table([{**_short(trial), "main": trial["trial"] == best} for trial in ranked], keys),
        *(["<h2>Failures</h2>", table(errors, {"trial": "trial", "error": "error"})] if errors else []),
    ])  # fmt: skip


def _short(row: Row) -> dict[str, Any]:
    """Numbers as texts with the digits that tell values apart; those of scores stay numbers."""
    exact, digits = {"score", "auc", "logloss", "ne", "bar", "importance"}, {"seconds": ",.0f"}
    return {
        key: format(value, digits.get(key, ".3g")) if isinstance(value, float) and key not in exact else value
        for key, value in row.items()
    }


def _shown(values: Sequence[Row]) -> list[Mapping[str, Any]]:
    largest = max((row["importance"] or 0.0 for row in values), default=0.0) or 1.0
    known = any(row["importance"] is not None for row in values)
    return [{**_short(row), "bar": (row["importance"] or 0.0) / largest if known else None} for row in values]


def _ends(scores: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis of scores, without trials that are far below the others."""
    best, middle = max(scores), float(np.median(scores))
    return spread([max(min(scores), middle - 3 * (best - middle) - 1e-4), best])


def _dots(chart: Chart, places: Sequence[float], scored: Sequence[Row]) -> None:
    low = chart.y[0]
    for x, trial in zip(places, scored, strict=True):
        kind = "valid" if trial["state"] == "complete" else "train"
        chart.dot(x, max(trial["score"], low), kind, f"trial {trial['trial']}: {trial['score']:.4f}")


def _history(scored: Sequence[Row], ends: tuple[float, float]) -> str:
    numbers = [float(trial["trial"]) for trial in scored]
    chart = Chart(spread(numbers, 0.03), ends, "trial", "score", _whole(numbers))
    complete = [trial for trial in scored if trial["state"] == "complete"]
    so_far = np.maximum.accumulate([trial["score"] for trial in complete])
    chart.line([trial["trial"] for trial in complete], so_far, "valid")
    _dots(chart, numbers, scored)
    return chart.svg("score by trial, and the best so far")


def _whole(numbers: Sequence[float]) -> list[tuple[float, str]]:
    """Marks of an axis of trials."""
    last = int(max(numbers))
    step = max(1, -(-last // 8))
    return [(float(i), str(i)) for i in range(0, last + 1, step)]


def _slice(key: str, values: Range | Choice, scored: Sequence[Row], ends: tuple[float, float]) -> str:
    """Scores by one value: a logarithmic axis where it is searched so, places in a row for choices."""
    if isinstance(values, Choice):
        marks = [(float(i), str(value)) for i, value in enumerate(values.values)]
        chart = Chart((-0.5, len(marks) - 0.5), ends, key, "score", marks)
        _dots(chart, [float(values.values.index(trial[key])) for trial in scored], scored)
        return chart.svg(f"score by {key}")
    scale = math.log10 if values.log else float
    low, high = scale(values.low), scale(values.high)
    inner = (low + (high - low) * share for share in (0.1, 0.5, 0.9))
    marks = [(place, f"{10**place if values.log else place:.2g}") for place in inner]
    chart = Chart((low, high), ends, key, "score", marks)
    _dots(chart, [scale(trial[key]) for trial in scored], scored)
    return chart.svg(f"score by {key}")
