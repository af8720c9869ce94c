"""Predicted throughput beside published and measured throughput.

    python benchmarks/plan.py --plot benchmarks/scaling.png          NVIDIA's DLRM on 1 to 4,096 GPUs
    python benchmarks/plan.py --measured loopback.json --plot loopback.png

A file of measurements is `{"schema": …, "embedding_dim": 16, "options": {…}, "machine": "loopback", "scaling": "strong",
"examples_per_second": {"1": …, "2": …}}`, the options being those of `kd.sharding.Workload.of`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from published import PUBLISHED
from results import markdown_table, write_section

from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.planner.simulator import scaling_png, simulate
from keras_dlrm.sharding.planner.workload import Workload


def beside_published() -> list[dict[str, Any]]:
    """A line for each published throughput."""
    lines = []
    for point in PUBLISHED:
        predicted = point.predicted()
        lines.append(
            {"published": point.name, "devices": f"{point.world_size} × {point.machine}", "batch": f"{point.global_batch:,}",
             "samples/s": f"{point.examples_per_second:,.0f}", "predicted": f"{predicted:,.0f}",
             "predicted / published": f"{predicted / point.examples_per_second:.2f}", "note": point.note}
        )  # fmt: skip
    return lines


def beside_measured(measured: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    """A line for each measured number of processes, and the estimates.

    Args:
        measured: As the file has it.
    """
    rates = {int(n): float(rate) for n, rate in measured["examples_per_second"].items()}
    work = Workload.of(Schema.from_dict(measured["schema"]), measured["embedding_dim"], **measured.get("options", {}))
    found = simulate(work, list(rates), measured.get("machine", "loopback"), measured.get("scaling", "strong"))
    lines = []
    for n, rate in rates.items():
        each = found[n]
        predicted = None if each is None else each.examples_per_second
        lines.append(
            {"processes": n, "measured samples/s": f"{rate:,.0f}", "predicted": "does not fit" if predicted is None else
             f"{predicted:,.0f}", "predicted / measured": "" if predicted is None else f"{predicted / rate:.2f}"}
        )  # fmt: skip
    return lines, found


@click.command()
@click.option("--measured", type=click.Path(path_type=Path), help="JSON file of measurements.")
@click.option("--plot", type=click.Path(path_type=Path), help="PNG to draw: of what was measured, else of what is published.")
@click.option("--write", is_flag=True, help="Put the tables into RESULTS.md.")
def main(measured: Path | None, plot: Path | None, write: bool) -> None:
    """Print predictions beside published and measured throughput."""
    sections = {"Predicted throughput beside published": beside_published()}
    if measured is None and plot is not None:
        drawn = [point for point in PUBLISHED if (point.name, point.machine) == (PUBLISHED[0].name, "a100")]
        rates = {point.world_size: point.examples_per_second for point in drawn}
        found = simulate(drawn[0].workload(), machine="a100", scaling="strong")
        scaling_png(found, plot, f"{drawn[0].name}, batch {drawn[0].global_batch:,} on A100s", rates, "published")
    if measured is not None:
        values = json.loads(measured.read_text(encoding="utf-8"))
        lines, found = beside_measured(values)
        sections["Predicted throughput beside measured"] = lines
        if plot is not None:
            rates = {int(n): float(rate) for n, rate in values["examples_per_second"].items()}
            scaling_png(found, plot, "predicted and measured", rates)
    for title, lines in sections.items():
        print(f"### {title}\n\n{markdown_table(lines)}\n")
        if write:
            write_section(title, markdown_table(lines))


if __name__ == "__main__":
    main()
