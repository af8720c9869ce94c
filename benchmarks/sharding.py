"""What distribution costs: two processes with a core each beside one process with both, on the same global batch.

    python benchmarks/sharding.py --write

26 tables of 100,000 rows × 16, table-wise, the MLPs of Criteo Kaggle's model, row-wise Adagrad, through `model.fit`, over loopback.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from results import machine, markdown_table, write_section

from keras_dlrm.sharding.launch import environments

PROGRAM = Path(__file__).parent / "peers" / "sharded.py"


class Run:
    """Processes that train together.

    Args:
        backend: Keras backend.
        cores: Of each process.
        arguments: Of the program.
    """

    def __init__(self, backend: str, cores: list[str], arguments: list[str]) -> None:
        self.processes = [
            subprocess.Popen(
                ["taskset", "--cpu-list", core, sys.executable, str(PROGRAM), *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1,
                env={**os.environ, **mine},
            )
            for core, mine in zip(cores, environments(backend, len(cores)), strict=True)
        ]  # fmt: skip
        for process in self.processes:
            while _line(process) != "ready":
                pass

    def round(self) -> float:
        """Samples a second of one round."""
        for process in self.processes:
            process.stdin.write("go\n")  # type: ignore[union-attr]
        return min(float(_line(process)) for process in self.processes)

    def end(self) -> None:
        """Kill them."""
        for process in self.processes:
            process.kill()
            process.wait()


def _line(process: Any) -> str:
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process ended with {process.wait()}")
    return str(line.strip())


@click.command()
@click.option("--backend", "backends", multiple=True, default=["tensorflow", "jax", "torch"], show_default=True)
@click.option("--batch", "batches", multiple=True, type=int, default=[2048, 8192], show_default=True, help="Of all processes.")
@click.option("--kind", default="table_wise", show_default=True)
@click.option("--steps", default=40, show_default=True, help="Of a round.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--write", "into_results", is_flag=True, help="Put the table into RESULTS.md.")
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
    text = markdown_table(table)
    click.echo(text)
    if into_results:
        note = f"{machine()}, {kind}, samples/s, medians of {rounds} rounds of {steps} steps, the ratio of each round's pair."
        write_section("Two processes beside one", f"{note}\n\n{text}")


if __name__ == "__main__":
    main()
