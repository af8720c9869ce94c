"""Picture of a training run: learning curves and reliability."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.files.picture import GRID, INK, picture
from keras_dlrm.metrics import log_loss, reliability, scores

# Color-blind safe (Okabe and Ito): training is grey, what counts is blue.
TRAIN, VALID = "#8C8C8C", "#0072B2"
CURVES = {"AUC": ("auc",), "log loss": ("logloss", "log_loss", "binary_crossentropy", "loss")}


def learning_curves_png(
    history: Mapping[str, Sequence[float]], labels: Any, probabilities: Any, path: str | os.PathLike[str], title: str = "",
    weights: Any = None,
) -> None:  # fmt: skip
    """Draw one PNG with two panels: learning curves per epoch, and reliability with a histogram of predictions.

    The left panel shows AUC and log loss of the training part and, where the history has `val_…` keys, of the
    validation part, with its best epoch marked. The right one shows how often a click followed predictions of a given
    size, in bins of equal numbers of rows; on the diagonal the model is calibrated.

    Args:
        history: `model.fit(…).history`: values per epoch by key. AUC is read from `auc`; log loss from `logloss`, `log_loss`,
            `binary_crossentropy` or else `loss`; each with and without the prefix `val_`. A curve without a key is left out.
        labels: 0 or 1, (n,) or (n, 1), of the rows in the right panel.
        probabilities: Predictions for them in [0, 1], (n,) or (n, 1).
        path: File to write; its folder exists.
        title: Line above the panels.
        weights: What each of these rows counts, (n,) or (n, 1); 1 each by default.

    Raises:
        ValueError: the history has no epoch, or labels and probabilities are bad (see `kd.metrics.reliability`).

    Example:

    >>> import tempfile
    >>> history = {"auc": [0.6, 0.7], "val_auc": [0.6, 0.65], "loss": [0.6, 0.5], "val_loss": [0.6, 0.55]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     learning_curves_png(history, [0, 1, 0, 1], [0.2, 0.7, 0.4, 0.6], f"{folder}/run.png", "Tiny run")
    ...     os.path.getsize(f"{folder}/run.png") > 10_000
    True
    """
    curves = {name: curve(history, keys) for name, keys in CURVES.items()}
    if not any(values for pair in curves.values() for values in pair):
        fix = "give model.fit(…).history of a run with at least one epoch."
        raise ValueError(f"learning_curves_png: history has the keys {sorted(history)} and no epoch of AUC or log loss; {fix}")
    with picture(path, title, (11.5, 5.4), w_pad=0.12, h_pad=0.08) as figure:
        left, right = figure.subfigures(1, 2, wspace=0.05)
        _draw_curves(left, curves)
        _draw_reliability(right, labels, probabilities, weights)


def curve(history: Mapping[str, Sequence[float]], keys: Sequence[str]) -> tuple[list[float], list[float]]:
    """Training and validation values under the first of `keys` that the history has."""
    for key in keys:
        if len(history.get(key, ())) or len(history.get(f"val_{key}", ())):
            return [float(v) for v in history.get(key, ())], [float(v) for v in history.get(f"val_{key}", ())]
    return [], []


def _draw_curves(panel: Any, curves: Mapping[str, tuple[list[float], list[float]]]) -> None:
    shown = {name: pair for name, pair in curves.items() if pair[0] or pair[1]}
    panels = panel.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    epochs = max(len(values) for pair in shown.values() for values in pair)
    for axes, (name, (train, valid)) in zip(panels, shown.items(), strict=True):
        _style(axes)
        size = 7 if epochs == 1 else 4 if epochs <= 30 else 0
        for values, label, color in ((train, "train", TRAIN), (valid, "valid", VALID)):
            if values:
                axes.plot(range(1, len(values) + 1), values, "o-", label=label, color=color, markersize=size, lw=1.8)
        counted = valid or train
        if np.isfinite(counted).any():
            best = int(np.nanargmax(counted) if name == "AUC" else np.nanargmin(counted))
            where = "valid" if valid else "train"
            axes.set_title(
                f"{name}: {counted[best]:.4f} {where}" + (f", epoch {best + 1} is best" if epochs > 1 else ""),
                loc="left", fontsize=10.5, color=INK,
            )  # fmt: skip
            if epochs > 1:
                axes.plot(best + 1, counted[best], "o", ms=10, mfc="none", mec=VALID if valid else TRAIN, mew=1.4)
        axes.margins(x=0.04, y=0.18)
        if epochs == 1:  # two dots: name their values instead of drawing a scale for them
            axes.set_xlim(0.5, 1.5)
            axes.margins(y=0.4)
            axes.set_xticks([1])
            for values in (train, valid):
                if values:
                    offset = {"xytext": (12, 0), "textcoords": "offset points", "va": "center"}
                    axes.annotate(f"{values[0]:.4f}", (1, values[0]), **offset, fontsize=9.5, color=INK)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.ticklabel_format(axis="y", useOffset=False)
    panels[-1].set_xlabel("epoch", color=INK)
    panels[0].legend(frameon=False, fontsize=9.5, loc="best")


def _draw_reliability(panel: Any, labels: Any, probabilities: Any, weights: Any) -> None:
    values = np.asarray(probabilities, dtype=np.float64).reshape(-1)
    clicks = np.asarray(labels).reshape(-1)
    points = reliability(labels, probabilities, bins=int(np.clip(len(values) // 200, 5, 20)), weights=weights)
    top, bottom = panel.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    low, high = wilson(points.observed, points.rows)
    limit = min(1.0, 1.05 * max(points.predicted.max(), high.max(), 0.01))
    _style(top)
    top.plot([0, limit], [0, limit], "--", color=TRAIN, lw=1.2, label="calibrated")
    top.errorbar(
        points.predicted, points.observed, yerr=[points.observed - low, high - points.observed], fmt="o-",
        color=VALID, ms=4.5, lw=1.5, elinewidth=1.0, capsize=2, label=f"observed, {len(points.rows)} bins, 95%",
    )  # fmt: skip
    top.set_xlim(0, limit)
    top.set_ylim(0, limit)
    top.set_ylabel("observed click rate", color=INK)
    top.legend(frameon=False, fontsize=9.5, loc="best")
    if 0 < (clicks if weights is None else clicks[np.asarray(weights).reshape(-1) > 0]).mean() < 1:
        exact = scores(labels, probabilities, weights)
        note = f"AUC {exact['auc']:.4f}, log loss {exact['logloss']:.4f}, calibration {exact['calibration']:.3f}"
    else:
        ratio = f"{values.mean() / clicks.mean():.3f}" if clicks.any() else "undefined"
        note = f"log loss {log_loss(labels, probabilities):.4f}, calibration {ratio}"
    top.set_title(f"Reliability: {note}", loc="left", fontsize=10.5, color=INK)
    _style(bottom)
    bottom.hist(values, bins=np.linspace(0, limit, 41), color=VALID, alpha=0.75)
    bottom.set_ylabel("rows", color=INK)
    beyond = int((values > limit).sum())
    note = f" ({beyond:,} of {len(values):,} rows lie beyond)" if beyond else ""
    bottom.set_xlabel(f"predicted click probability{note}", color=INK)
    bottom.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    bottom.yaxis.get_major_locator().set_params(nbins=3, integer=True)
    panel.align_ylabels([top, bottom])


def wilson(share: np.ndarray, count: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95% interval of a share: unlike the normal one it has a width where the share is 0 or 1."""
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.minimum(center - half, share), np.maximum(center + half, share)


def _style(axes: Any) -> None:
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
