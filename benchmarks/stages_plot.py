"""The picture of a profile by stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from counting import STAGES
from stage_profile import WHOLE, Profile

# Color-blind safe (Okabe and Ito).
COLORS = dict(zip(STAGES, ("#8C8C8C", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#D55E00"), strict=True))
INK, GRID, REST = "#333333", "#E3E3E3", "#C9C9C9"


def plot(profile: Profile, path: Path, title: str) -> None:
    """Bars of time beside a roofline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.4), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, color=INK)
    bars, roof = figure.subplots(1, 2, width_ratios=[1.15, 1])
    longest = max(profile.seconds.values()) * 1e3
    for y, name in enumerate((*STAGES, *WHOLE)):
        ms, least = 1e3 * profile.seconds[name], 1e3 * profile.least(name)
        if name == WHOLE[0]:
            left = 0.0
            for stage in STAGES:
                bars.barh(y, 1e3 * profile.seconds[stage], left=left, color=COLORS[stage])
                left += 1e3 * profile.seconds[stage]
        else:
            bars.barh(y, ms, color=COLORS.get(name, REST))
        bars.vlines(least, y - 0.4, y + 0.4, color=INK, lw=2, label="least that the limits allow" if y == 0 else None)
        bars.text(
            ms + longest / 80, y, f"{ms:.2f} ms, {least / ms:.0%} of the limit", va="center", fontsize=9, color=INK
        )
    bars.set_yticks(range(len(STAGES) + len(WHOLE)), [*STAGES, *WHOLE])
    bars.invert_yaxis()
    bars.axhline(len(STAGES) - 0.5, color=GRID)
    bars.set(xlim=(0, 1.42 * longest), xlabel="ms a step")
    bars.legend(frameon=False, fontsize=9, loc="upper right")
    bars.set_title("time, and how near it is to the limit", fontsize=10, color=INK, loc="left")

    shown = [stage for stage in STAGES if profile.counts[stage].flops] + ["fit"]
    rates = {name: profile.counts[name].flops / profile.seconds[name] / 1e9 for name in shown}
    ridge, top = profile.flops_per_s / profile.bytes_per_s, profile.flops_per_s / 1e9
    intensities = [profile.counts[name].intensity for name in shown] + [ridge]
    low, high = min(intensities) / 2.5, max(intensities) * 2.5
    line = np.array([low, ridge, high])
    roof.loglog(line, np.minimum(line / ridge, 1) * top, color=INK, lw=1.5)
    for name in shown:
        where = profile.counts[name].intensity, rates[name]
        roof.plot(
            *where, "o" if name in STAGES else "s", ms=9, color=COLORS.get(name, REST), mec=INK, mew=0.5, label=name
        )
    words = {"textcoords": "offset points", "color": INK, "fontsize": 10}
    roof.annotate(f"{top:,.0f} GFLOP/s", (ridge, top), (4, 6), **words)
    middle = np.sqrt(low * ridge)
    roof.annotate(
        f"{profile.bytes_per_s / 1e9:,.0f} GB/s", (middle, middle / ridge * top), (-10, 6), ha="right", **words
    )
    roof.set(xlim=(low, high), ylim=(min(rates.values()) / 3, top * 3), xlabel="FLOP per byte", ylabel="GFLOP/s")
    roof.set_title("rate, under the roof of the limits", fontsize=10, color=INK, loc="left")
    roof.legend(frameon=False, fontsize=9, loc="lower right")
    roof.grid(color=GRID, which="major")
    for axes in (bars, roof):
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, length=3)
    figure.savefig(path)
