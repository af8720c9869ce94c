"""Differences between two logs' statistics, in figures and as a picture."""

import os
from typing import Any

import numpy as np

from keras_dlrm.data.synthetic.twin.statistics import SparseStatistics, Statistics
from keras_dlrm.files.picture import GRID, INK, picture

# Color-blind safe (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
SHOWN = 4


def differences(first: Statistics, second: Statistics) -> dict[str, Any]:
    """Distances between the statistics of two logs with the same columns, 0 where they agree.

    Args:
        first: Of the one log.
        second: Of the other.

    Returns:
        `"click_rate"`, `"auc"` and `"correlation"` (the largest of all pairs): absolute differences. By column:
        `"frequency"`: largest difference of the shares that go to the r most popular ids, over all r. `"distinct"`:
        relative difference of the numbers of different ids. `"lengths"`: largest difference of the shares of rows with
        at most so many ids. `"locality"`: largest difference of the shares at most so far, in stack distance.
        `"dense"`: largest difference of the shares of rows at most so large, measured at the middles of groups.

    Raises:
        ValueError: the logs have other columns.

    Example:

    >>> import keras_dlrm as kd
    >>> from keras_dlrm.data.synthetic import PlantedClickLog
    >>> from keras_dlrm.data.synthetic import measure
    >>> statistics = measure(PlantedClickLog(kd.Schema(categorical=[kd.Categorical("C1", 20)])), rows=1000)
    >>> differences(statistics, statistics)["frequency"]
    {'C1': 0.0}
    """
    for kind in ("sparse", "dense"):
        names, others = list(getattr(first, kind)), list(getattr(second, kind))
        if names != others:
            raise ValueError(f"differences: the {kind} columns are {names} and {others}; they must be the same.")
    out: dict[str, Any] = {
        "click_rate": abs(first.click_rate - second.click_rate),
        "auc": abs(first.auc - second.auc),
        "correlation": float(np.abs(np.array(first.correlation) - np.array(second.correlation)).max()),
    }
    for name in ("frequency", "distinct", "lengths", "locality", "dense"):
        out[name] = {}
    for name, a in first.sparse.items():
        b = second.sparse[name]
        ranks = np.concatenate([np.cumsum(a.ids), np.cumsum(b.ids)])
        out["frequency"][name] = _largest(a.coverage(ranks), b.coverage(ranks))
        out["distinct"][name] = abs(a.distinct - b.distinct) / max(a.distinct, 1)
        size = max(len(a.lengths), len(b.lengths))
        padded = [np.cumsum(np.pad(c.lengths, (0, size - len(c.lengths)))) for c in (a, b)]
        out["lengths"][name] = _largest(*padded)
        out["locality"][name] = a.locality.difference(b.locality)
    for name, one in first.dense.items():
        two = second.dense[name]
        at = np.concatenate([one.values, two.values])
        out["dense"][name] = _largest(one.cdf(at), two.cdf(at))
    return out


def _largest(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max()) if len(first) else 0.0


def comparison_png(
    first: Statistics, second: Statistics, path: str | os.PathLike[str], names: tuple[str, str] = ("original", "twin"),
    title: str = "",
) -> None:  # fmt: skip
    """Draw the profiles of two logs over each other: the first as lines, the second dashed and dark.

    Four panels: how much of the traffic the most popular ids take, how local the references are, the dense columns'
    distributions, and the click rate by popularity. Each shows up to four columns, the largest ones.

    Args:
        first: Statistics of the one log.
        second: Of the other, with the same columns.
        path: File to write; its folder exists.
        names: What the logs are called in the picture.
        title: Line above the panels.

    Raises:
        ValueError: the logs have other columns.
    """
    differences(first, second)
    with picture(path, title or f"{names[0]} and {names[1]}", (11.5, 8.4), w_pad=0.1, h_pad=0.1) as figure:
        _draw(first, second, names, figure.subplots(2, 2).ravel())


def _draw(first: Statistics, second: Statistics, names: tuple[str, str], panels: Any) -> None:
    from matplotlib.lines import Line2D

    frequency, locality, dense, clicks = panels
    largest = sorted(first.sparse, key=lambda name: -first.sparse[name].distinct)[:SHOWN]
    for color, name in zip(COLORS, largest, strict=False):
        for log, style in ((first, _line(color)), (second, _dashes())):
            column = log.sparse[name]
            label = name if log is first else None
            ranks = np.cumsum(column.ids)
            if not len(ranks):
                continue
            frequency.plot(ranks, column.coverage(ranks), label=label, **style)
            far = np.unique(np.geomspace(1, max(column.locality.largest, 1) + 1, 200).astype(np.int64)) - 1
            locality.plot(far + 1, column.locality.cdf(far), label=label, **style)
            clicks.plot(*_by_octave(column), label=label, **(style | {"marker": "o", "markersize": 4}))
    for color, name in zip(COLORS, list(first.dense)[:SHOWN], strict=False):
        for log, style in ((first, _line(color)), (second, _dashes())):
            shares = np.linspace(0.0, 1.0, 401)
            dense.plot(log.dense[name].quantiles(shares), shares, label=name if log is first else None, **style)
    for panel, heading, below in (
        (frequency, "Share of references to the most popular ids", "ids, most popular first"),
        (locality, "Hit rate of a cache (share of small stack distances)", "rows in the cache"),
        (dense, "Dense columns: share of rows at most so large", "value"),
        (clicks, "Click rate by popularity", "ids, most popular first"),
    ):
        panel.set_title(heading, fontsize=11, color=INK, loc="left")
        panel.set_xlabel(below, color=INK)
        panel.grid(color=GRID)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        if panel is not dense:
            panel.set_xscale("log")
        if not panel.lines:
            panel.text(0.5, 0.5, "no such column", ha="center", va="center", transform=panel.transAxes, color=INK)
            continue
        if panel is not clicks:
            panel.set_ylim(0.0, 1.02)
        handles, labels = panel.get_legend_handles_labels()
        handles.append(Line2D([], [], **_dashes()))
        panel.legend(handles, [*labels, names[1]], frameon=False, fontsize=9, title=names[0])
    if first.dense:
        values = np.concatenate([[*c.values] for c in list(first.dense.values())[:SHOWN]])
        if np.abs(values).max() > 20.0 * max(np.median(np.abs(values)), 1e-6):
            dense.set_xscale("symlog")


def _by_octave(column: SparseStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Click rates over ranks 1, 2-3, 4-7, …: those of single buckets are noise where references are few."""
    ids, references = np.asarray(column.ids), np.asarray(column.references)
    octave = np.log2(np.cumsum(ids) - ids + 1).astype(np.int64)
    total = np.bincount(octave, references)
    used = np.flatnonzero(total)
    rate = np.bincount(octave, references * np.asarray(column.click_rate))[used] / total[used]
    return 2.0**used, rate


def _line(color: str) -> dict[str, Any]:
    return {"color": color, "linewidth": 3.0, "alpha": 0.55}


def _dashes() -> dict[str, Any]:
    return {"color": INK, "linewidth": 1.2, "linestyle": "--"}
