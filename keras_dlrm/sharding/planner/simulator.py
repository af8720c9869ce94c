"""`simulate`: predicted throughput on one to thousands of devices."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from keras_dlrm.files.picture import GRID, INK, picture
from keras_dlrm.sharding.planner.estimate import COMMUNICATION, Estimate
from keras_dlrm.sharding.planner.machine import Machine
from keras_dlrm.sharding.planner.planner import plan_for
from keras_dlrm.sharding.planner.workload import Workload

SIZES = tuple(2**i for i in range(13))
_OTHER = ("overhead", "dense_layers", "lookup_and_update")
_COLORS = ("#BBBBBB", "#0072B2", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")


def simulate(
    work: Workload, sizes: Sequence[int] = SIZES, machine: Machine | str | Mapping[str, Any] = "a100",
    scaling: str = "weak", constraints: Mapping[str, Any] | None = None, memory_bytes: float | None = None,
) -> dict[int, Estimate | None]:  # fmt: skip
    """A plan for each number of devices, and what it gives.

    Args:
        work: The training step; its `global_batch` is that of the fewest devices.
        sizes: Numbers of devices.
        machine: A `Machine`, or a name in `MACHINES`.
        scaling: `"weak"`: as many examples per device everywhere; `"strong"`: as many in all.
        constraints: As for `kd.plan`.
        memory_bytes: As for `kd.plan`.

    Returns:
        Number of devices → `Estimate`; `None` where the tables do not fit.

    Raises:
        ValueError: an unknown scaling, no sizes.

    Example:

    >>> work = Workload.of(kd.Schema(categorical=[kd.Categorical("a", 1000), kd.Categorical("b", 1000)]), 8, global_batch=1024)
    >>> {size: estimate.global_batch for size, estimate in simulate(work, (1, 4)).items()}
    {1: 1024, 4: 4096}
    """
    if scaling not in ("weak", "strong"):
        raise ValueError(f"simulate: scaling={scaling!r} is unknown; use 'weak' or 'strong'.")
    if not sizes or min(sizes) < 1:
        raise ValueError(f"simulate: sizes={list(sizes)} must be numbers of devices, at least one.")
    estimates: dict[int, Estimate | None] = {}
    for size in sorted(set(sizes)):
        batch = work.global_batch if scaling == "strong" else work.global_batch * size // min(sizes)
        scaled = dataclasses.replace(work, global_batch=batch)
        try:
            estimates[size] = plan_for(scaled, size, constraints, machine, memory_bytes).estimate
        except ValueError as error:
            if "do not fit" not in str(error):
                raise
            estimates[size] = None
    return estimates


def table(estimates: Mapping[int, Estimate | None]) -> list[dict[str, Any]]:
    """A line per number of devices, as `print_table` takes them, from what `simulate` gave."""
    first = next(((size, each) for size, each in estimates.items() if each is not None), None)
    lines: list[dict[str, Any]] = []
    for size, each in estimates.items():
        if each is None or first is None:
            lines.append({"devices": size, "plan": "the tables do not fit"})
            continue
        ideal = first[1].examples_per_second / first[0] * size
        kinds = [line["sharding"] for line in each.tables]
        lines.append(
            {"devices": size, "global batch": each.global_batch, "examples/s": int(each.examples_per_second),
             "ms a step": 1e3 * each.step_seconds, "communication": each.communication_share,
             "of linear": each.examples_per_second / ideal, "bytes sent": each.traffic.total, "allocated": each.allocated,
             "plan": ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))}
        )  # fmt: skip
    return lines


def scaling_png(
    estimates: Mapping[int, Estimate | None], path: str | os.PathLike[str], title: str = "",
    points: Mapping[int, float] | None = None, label: str = "measured",
) -> None:  # fmt: skip
    """Draw throughput against devices, alongside a line of what would be linear, and what a step's time goes to.

    Args:
        estimates: Of `simulate`.
        path: PNG to write; its folder exists.
        title: Line above the panels.
        points: Number of devices → examples/s that were not predicted.
        label: What those are.

    Raises:
        ValueError: the tables fit on no number of devices.
    """
    from matplotlib.ticker import EngFormatter, LogLocator

    fits = {size: each for size, each in estimates.items() if each is not None}
    if not fits:
        raise ValueError(f"scaling_png: the tables do not fit on any of {list(estimates)} devices; give more of them.")
    sizes = list(fits)
    rates = [each.examples_per_second for each in fits.values()]
    with picture(path, title, (11.5, 4.8)) as figure:
        left, right = figure.subplots(1, 2)
        left.loglog(sizes, [rates[0] / sizes[0] * size for size in sizes], "--", color="#8C8C8C", lw=1.2, label="linear")
        left.loglog(sizes, rates, "o-", color="#0072B2", ms=4.5, lw=1.8, label="predicted")
        if points:
            left.loglog(list(points), list(points.values()), "D", color="#D55E00", ms=7, label=label)
        left.set(xlabel="devices", ylabel="examples/s")
        left.set_title("throughput", loc="left", fontsize=10.5, color=INK)
        left.legend(frameon=False, fontsize=9.5, loc="upper left")
        bottom = [0.0] * len(sizes)
        places = range(len(sizes))
        for name, color in zip((*_OTHER, *COMMUNICATION), _COLORS, strict=True):
            share = [each.seconds[name] / each.step_seconds for each in fits.values()]
            if max(share) >= 0.005:
                right.bar(places, share, 0.8, bottom, color=color, label=name.replace("_", " "))
            bottom = [below + more for below, more in zip(bottom, share, strict=True)]
        right.set_xticks(list(places), [str(size) for size in sizes])
        right.tick_params(axis="x", rotation=45 if len(sizes) > 8 else 0)
        right.set(xlabel="devices", ylabel="share of a step", ylim=(0, 1))
        right.set_title("what a step's time goes to", loc="left", fontsize=10.5, color=INK)
        right.legend(frameon=False, fontsize=9, bbox_to_anchor=(1.01, 1), loc="upper left", reverse=True)
        for axes in (left, right):
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(colors=INK, labelsize=9)
        left.set_xticks(sizes, [str(size) for size in sizes], rotation=45 if len(sizes) > 8 else 0)
        # Weak scaling over few devices stays within a power of ten, whose ends alone would be labeled.
        within = max(rates) < 20 * min(rates)
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if within else (1,)))
        left.yaxis.set_major_formatter(EngFormatter(sep=""))
        left.minorticks_off()
        left.grid(color=GRID)
