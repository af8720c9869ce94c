"""Cost of distribution: two processes with a core each beside one process with both, on the same global batch.

    python benchmarks/sharding.py --write

26 tables of 100,000 rows × 16, table-wise, the MLPs of Criteo Kaggle's model, row-wise Adagrad, through `model.fit`, over loopback.
"""

from __future__ import annotations

import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from contest import Program
from results import backends_option, machine, markdown_table, report, write_option

from keras_dlrm.sharding.launch import environments

PROGRAM = Path(__file__).parent / "peers" / "sharded.py"


class Run:
    """Processes that train together, each on its own cores."""

    def __init__(self, backend: str, cores: list[str], arguments: list[str]) -> None:
        def start(core: str, environment: dict[str, str]) -> Program:
            return Program("a process", ["taskset", "--cpu-list", core, sys.executable, str(PROGRAM), *arguments], **environment)

        # At the same time: each is ready when all have joined.
        with ThreadPoolExecutor(len(cores)) as pool:
            self.programs = list(pool.map(start, cores, environments(backend, len(cores))))

    def round(self) -> float:
        """Samples a second of one round."""
        for program in self.programs:
            program.tell()
        return min(float(program.answer()) for program in self.programs)

    def end(self) -> None:
        """Kill them."""
        for program in self.programs:
            program.end()


@click.command()
@backends_option
@click.option("--batch", "batches", multiple=True, type=int, default=[2048, 8192], show_default=True, help="Of all processes.")
@click.option("--kind", default="table_wise", show_default=True)
@click.option("--steps", default=40, show_default=True, help="Of a round.")
@click.option("--rounds", default=7, show_default=True)
@write_option
def main(backends: tuple[str, ...], batches: tuple[int, ...], kind: str, steps: int, rounds: int, into_results: bool) -> None:
    """Measure both in turns."""
    table = []
    for backend in backends:
        for batch in batches:
            arguments = [str(batch), str(steps), kind]
            runs = []
            try:
                runs = [Run(backend, ["0,1"], arguments), Run(backend, ["0", "1"], arguments)]
                found = [[run.round() for run in (runs if i % 2 else reversed(runs))] for i in range(rounds)]
            finally:
                for run in runs:
                    run.end()
            pairs = [pair if i % 2 else pair[::-1] for i, pair in enumerate(found)]
            one, two = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
            table.append(
                {
                    "backend": backend, "global batch": batch, "one process, 2 cores": f"{one:,.0f}",
                    "two processes, 1 core each": f"{two:,.0f}",
                    "ratio": f"{statistics.median(b / a for a, b in pairs):.2f}",
                }
            )  # fmt: skip
            print(table[-1], file=sys.stderr)
    note = f"{machine()}, {kind}, samples/s, medians of {rounds} rounds of {steps} steps, the ratio of each round's pair."
    report("Two processes beside one", note, markdown_table(table), into_results)


if __name__ == "__main__":
    main()
