"""Peak memory of building and training a model, over the bytes of its tables and their slots.

python benchmarks/memory.py
python benchmarks/memory.py --rule adagrad --backend jax --write
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import click
from results import backends_option, machine, markdown_table, report, write_option
from workload import SHAPES, Shape, write

SLOTS = {"sgd": 0, "adagrad": 1, "rowwise_adagrad": 0, "adam": 2}
PROGRAM = Path(__file__).parent / "peers" / "ours.py"


def table_and_slot_bytes(shape: Shape, rule: str) -> int:
    """Bytes that no training can do without."""
    per_row = 4 * sum(shape.rows) if rule == "rowwise_adagrad" else 0
    return shape.table_bytes * (1 + SLOTS[rule]) + per_row


def peak(folder: Path, batch: int, backend: str, rule: str) -> int:
    """Bytes of resident memory at the peak of a process that builds the model and trains an epoch."""
    command = [sys.executable, str(PROGRAM), str(folder), "--backend", backend, "--rule", rule, "--batch", str(batch)]
    done = subprocess.run(command, input="go\n", capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.split("peak")[1])


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="kaggle", show_default=True)
@click.option("--rule", type=click.Choice(list(SLOTS)), default="rowwise_adagrad", show_default=True)
@backends_option
@click.option("--batch", default=2048, show_default=True)
@write_option
def main(shape: str, rule: str, backends: tuple[str, ...], batch: int, into_results: bool) -> None:
    """Run each backend in a process of its own; what the same program takes with tiny tables is not counted."""
    needed = table_and_slot_bytes(SHAPES[shape], rule)
    tiny = Shape(tuple(3 for _ in SHAPES[shape].rows), SHAPES[shape].dim)
    rows = []
    for backend in backends:
        peaks = []
        for each in (tiny, SHAPES[shape]):
            with tempfile.TemporaryDirectory() as name:
                write(Path(name), each, 20 * batch)
                peaks.append(peak(Path(name), batch, backend, rule))
        rows.append(
            {"backend": backend, "tables + slots": f"{needed / 1e9:.2f} GB", "peak": f"{peaks[1] / 1e9:.2f} GB",
             "the same with tiny tables": f"{peaks[0] / 1e9:.2f} GB", "peak / (tables + slots)": f"{peaks[1] / needed:.2f}",
             "difference / (tables + slots)": f"{(peaks[1] - peaks[0]) / needed:.2f}"}
        )  # fmt: skip
        click.echo(rows[-1])
    note = f"{machine()}, batch {batch}, building included."
    report(f"Peak memory, {shape}, {rule}", note, markdown_table(rows), into_results)


if __name__ == "__main__":
    main()
