"""Milliseconds per training step as one table grows: ours beside stock Keras, keras-rs and legacy Keras.

    python benchmarks/table_size.py --keras-peers-python keras-peers/bin/python
    python benchmarks/table_size.py --backend jax --rule adagrad --rows 10000 --rows 1000000

A contestant is a model of one table and one Dense layer, trained by `model.fit`; batch 2048, width 16. Each rule and backend
has those that know it: row-wise Adagrad only ours, tf_keras only TensorFlow. Beside them stands what reading and writing
a batch's rows costs and nothing else: rows of a larger table are no longer in the caches. All sizes of a program take turns,
and programs with each other; those whose tables do not fit the memory together do so in smaller groups, one after the
other. Who does not fit even alone is left out.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from contest import Contestant, contest, has_peer
from results import RESULTS, backends_option, machine, markdown_table, write_section

PROGRAM = Path(__file__).parent / "peers" / "one_table.py"
Entrant = tuple[str, int]  # kind and rows
ROWS = (10_000, 100_000, 1_000_000, 5_000_000, 50_000_000)
SLOTS = {"sgd": 0, "adagrad": 1, "rowwise_adagrad": 0, "adam": 2}
KINDS = {
    "ours": "keras_dlrm",
    "stock": "Keras",
    "keras_rs": "keras-rs",
    "tf_keras": "tf_keras",
    "bare": "only the rows, NumPy",
}
BARE = (
    "All sizes of a program took turns. The last line of each rule reads and writes a batch's rows with NumPy and does nothing "
    "else: what grows there is the memory's time for rows that are in no cache."
)
# Tables' worth that a step makes besides: gradients, and new tables and slots before they replace the old. Measured at
# 4,000,000 rows. Who is not named makes only what belongs to the rows of a batch.
WHILE_STEPPING = {
    ("stock", "tensorflow"): {"sgd": 1, "adagrad": 2, "adam": 4},
    ("stock", "jax"): {"sgd": 1, "adagrad": 1, "adam": 1},
    ("stock", "torch"): {"sgd": 1, "adagrad": 4, "adam": 4},
    ("tf_keras", "tensorflow"): {"adam": 4},
}
# keras-rs looks up in Keras's own layer.
WHILE_STEPPING |= {("keras_rs", backend): made for (kind, backend), made in WHILE_STEPPING.items() if kind == "stock"}


def bytes_of(entrants: Sequence[Entrant], backend: str, rule: str) -> int:
    """Bytes of contestants at their peak: all hold their tables and slots, one at a time does a step."""
    held = sum(rows * (1 + SLOTS[rule]) for _, rows in entrants)
    step = max(rows * WHILE_STEPPING.get((kind, backend), {}).get(rule, 0) for kind, rows in entrants)
    return 16 * 4 * (held + step)


def groups(entrants: Sequence[Entrant], backend: str, rule: str, memory: float) -> list[list[Entrant]]:
    """Groups of contestants that take turns: in the order given, as many as fit. One that does not fit even alone is left out."""
    found: list[list[Entrant]] = []
    for kind, rows in entrants:
        if bytes_of([(kind, rows)], backend, rule) > memory:
            print(f"{kind}, {backend}, {rule}, {rows:,} rows is left out: it would not fit", file=sys.stderr)
        elif found and bytes_of([*found[-1], (kind, rows)], backend, rule) <= memory:
            found[-1].append((kind, rows))
        else:
            found.append([(kind, rows)])
    return found


def knows(kind: str, backend: str, rule: str) -> bool:
    """Whether there is such a contestant."""
    return (kind in ("ours", "bare") or rule != "rowwise_adagrad") and (kind != "tf_keras" or backend == "tensorflow")


@click.command()
@click.option("--rows", "sizes", type=int, multiple=True, default=ROWS, show_default=True)
@click.option("--rule", "rules", multiple=True, default=list(SLOTS), show_default=True)
@backends_option
@click.option("--rounds", default=5, show_default=True)
@click.option("--keras-peers-python", default=sys.executable, help="Interpreter with peers/requirements-keras.txt.")
@click.option("--memory", default=12.0, show_default=True, help="GB for the tables of those who take turns.")
@click.option("--write", "into_results", is_flag=True, help="Put table and plot into benchmarks/.")
def main(
    sizes: tuple[int, ...], rules: tuple[str, ...], backends: tuple[str, ...], rounds: int, keras_peers_python: str, memory: float,
    into_results: bool,
) -> None:  # fmt: skip
    """Measure ours and the peers in turns, for each backend, rule and size."""
    pythons = {"ours": sys.executable, "bare": sys.executable, "stock": sys.executable}
    for kind in ("keras_rs", "tf_keras"):
        if has_peer(keras_peers_python, kind, "requirements-keras.txt"):
            pythons[kind] = keras_peers_python
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for backend, rule in itertools.product(backends, rules):
        # All sizes of one program together: their ratio is what is asked for.
        entrants = [(kind, rows) for kind in pythons if knows(kind, backend, rule) for rows in sizes]
        for group in groups(entrants, backend, rule, memory * 1e9):
            contestants = []
            for kind, rows in group:
                command = [pythons[kind], str(PROGRAM), kind, backend, rule, str(rows)]
                contestants.append(Contestant(f"{kind}, {backend}, {rule}, {rows:,} rows", command))
            for (kind, rows), times in zip(group, contest(contestants, rounds), strict=True):
                found.setdefault((kind, backend, rule), {})[rows] = statistics.median(times.ms)
        if into_results:
            # All of it takes an hour: what is measured is kept.
            _write(found, sizes, rounds, memory)
    click.echo(_table(found, sizes))


def _write(
    found: dict[tuple[str, str, str], dict[int, float]], sizes: tuple[int, ...], rounds: int, memory: float
) -> None:
    path = RESULTS.parent / "table_size.png"
    _plot(found, path)
    note = (
        f"{machine()}, batch 2048, width 16, medians of {rounds} rounds, ms a step; “–” would need over {memory:g} GB."
    )
    text = f"{note} {BARE}\n\n{_table(found, sizes)}\n\n![log-log plot]({path.name})"
    write_section("Training step against table size", text)


def _table(found: dict[tuple[str, str, str], dict[int, float]], sizes: tuple[int, ...]) -> str:
    keys = sorted(found, key=lambda k: (k[1], k[2], list(KINDS).index(k[0])))
    return markdown_table([_line(key, found[key], sizes) for key in keys])


def _line(key: tuple[str, str, str], times: dict[int, float], sizes: tuple[int, ...]) -> dict[str, Any]:
    kind, backend, rule = key
    line: dict[str, Any] = {"backend": backend, "rule": rule, "program": KINDS[kind]}
    line |= {f"{rows:,} rows": f"{times[rows]:.2f}" if rows in times else "–" for rows in sizes}
    return {**line, "largest / smallest": f"{times[max(times)] / times[min(times)]:.2f}×"}


def _plot(found: dict[tuple[str, str, str], dict[int, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    backends = list(dict.fromkeys(backend for _, backend, _ in found))
    figure, panels = pyplot.subplots(1, len(backends), figsize=(5 * len(backends), 4), sharey=True, squeeze=False)
    colors = dict(zip(SLOTS, ("C0", "C1", "C2", "C3"), strict=True))
    strokes = dict(zip(KINDS, ("-", "--", ":", "-.", (0, (1, 4))), strict=True))
    for panel, backend in zip(panels[0], backends, strict=True):
        for (kind, where, rule), times in found.items():
            if where == backend:
                style = {"color": colors[rule], "linestyle": strokes[kind], "marker": "o", "markersize": 3}
                panel.loglog(list(times), list(times.values()), **style)
        panel.set(title=backend, xlabel="rows of the table")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("ms a step")
    kinds, _, rules = (set(names) for names in zip(*found, strict=True))
    lines = [Line2D([], [], color=colors[rule], label=rule) for rule in SLOTS if rule in rules]
    lines += [Line2D([], [], color="k", linestyle=strokes[kind], label=KINDS[kind]) for kind in KINDS if kind in kinds]
    panels[0][-1].legend(handles=lines, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
