"""Milliseconds per training step as one table grows: ours beside stock Keras, for each rule and backend.

    python benchmarks/table_size.py
    python benchmarks/table_size.py --backend jax --rule adagrad --rows 10000 --rows 1000000

A contestant is a model of one table and one Dense layer, trained by `model.fit`; batch 2048, width 16.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import click
from contest import Contestant, contest
from results import RESULTS, machine, markdown_table, write_section

PROGRAM = Path(__file__).parent / "peers" / "one_table.py"
ROWS = (10_000, 100_000, 1_000_000, 5_000_000, 50_000_000)
SLOTS = {"sgd": 0, "adagrad": 1, "rowwise_adagrad": 0, "adam": 2}


def bytes_of(kind: str, rows: int, rule: str) -> int:
    """What a contestant holds at its peak: stock Keras makes a gradient, and a new table, of the table's size."""
    return rows * 16 * 4 * (1 + SLOTS[rule] + (2 if kind == "stock" else 0))


@click.command()
@click.option("--rows", "sizes", type=int, multiple=True, default=ROWS, show_default=True)
@click.option("--rule", "rules", multiple=True, default=list(SLOTS), show_default=True)
@click.option("--backend", "backends", multiple=True, default=["tensorflow", "jax", "torch"], show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--memory", default=12.0, show_default=True, help="GB; what would need more is left out and said to be.")
@click.option("--write", "into_results", is_flag=True, help="Put table and plot into benchmarks/.")
def main(
    sizes: tuple[int, ...],
    rules: tuple[str, ...],
    backends: tuple[str, ...],
    rounds: int,
    memory: float,
    into_results: bool,
) -> None:
    """Measure ours and stock Keras in turns, for each backend, rule and size."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for backend in backends:
        for rule in rules:
            for rows in sizes:
                kinds = [k for k in ("ours", "stock") if not (k == "stock" and rule == "rowwise_adagrad")]
                kinds = [k for k in kinds if bytes_of(k, rows, rule) <= memory * 1e9]
                entrants = [
                    Contestant(
                        f"{kind}, {backend}, {rule}, {rows:,} rows",
                        [sys.executable, str(PROGRAM), kind, backend, rule, str(rows)],
                    )
                    for kind in kinds
                ]
                for kind, times in zip(kinds, contest(entrants, rounds), strict=True):
                    found.setdefault((kind, backend, rule), {})[rows] = statistics.median(times.ms)
    table = markdown_table([_line(key, found[key], sizes) for key in sorted(found, key=lambda k: (k[1], k[2], k[0]))])
    click.echo(table)
    if into_results:
        path = RESULTS.parent / "table_size.png"
        _plot(found, path)
        note = f"{machine()}, batch 2048, width 16, medians of {rounds} rounds, ms a step; “–” would need over {memory:g} GB."
        write_section("Training step against table size", f"{note}\n\n{table}\n\n![log-log plot]({path.name})")


def _line(key: tuple[str, str, str], times: dict[int, float], sizes: tuple[int, ...]) -> dict[str, Any]:
    kind, backend, rule = key
    line: dict[str, Any] = {"backend": backend, "rule": rule, "program": kind}
    line |= {f"{rows:,} rows": f"{times[rows]:.2f}" if rows in times else "–" for rows in sizes}
    return {**line, "largest / smallest": f"{times[max(times)] / times[min(times)]:.2f}×"}


def _plot(found: dict[tuple[str, str, str], dict[int, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    backends = list(dict.fromkeys(backend for _, backend, _ in found))
    figure, panels = pyplot.subplots(1, len(backends), figsize=(5 * len(backends), 4), sharey=True, squeeze=False)
    colours = dict(zip(SLOTS, ("C0", "C1", "C2", "C3"), strict=True))
    for panel, backend in zip(panels[0], backends, strict=True):
        for (kind, where, rule), times in found.items():
            if where == backend:
                style = {"color": colours[rule], "linestyle": "-" if kind == "ours" else "--", "marker": "o"}
                name = rule if kind == "ours" else f"{rule}, stock Keras"
                panel.loglog(list(times), list(times.values()), label=name, markersize=3, **style)
        panel.set(title=backend, xlabel="rows of the table")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("ms a step")
    panels[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
