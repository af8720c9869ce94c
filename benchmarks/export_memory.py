"""Memory that publishing a model takes: the exporting process and those that it starts, over the live model alone.

    python benchmarks/export_memory.py --write

Criteo Kaggle's 540 million parameters, on each backend. The memory of all processes together is read a hundred times a second.
What is mapped from files, such as the code of libraries, is not counted: it is nobody's own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
from results import backends_option, machine, markdown_table, measured, report, write_option
from workload import SHAPES

EVERY = 0.01


def family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def resident(pid: int) -> int:
    """Bytes of memory that a process and its descendants have for themselves."""
    total = 0
    try:
        for member in family(pid):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                total += int(line.split()[1]) * 1024 if line.startswith("Pss_Anon:") else 0
    except (FileNotFoundError, ProcessLookupError):
        pass  # It has just ended.
    return total


def measure(shape: str, tables: str) -> tuple[int, int, float, int]:
    """Resident bytes before the export and at its peak, its seconds, and bytes on disk; in this process."""
    import keras_dlrm as kd
    from keras_dlrm.export.requests import example_batch

    of = SHAPES[shape]
    schema = of.schema()
    model = kd.models.DLRM(schema, of.dim, bottom_mlp=list(of.bottom), top_mlp=list(of.top), seed=0)
    model.predict(example_batch(schema), verbose=0)
    before, peak, done = resident(os.getpid()), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident(os.getpid()))
            time.sleep(EVERY)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = kd.export.savedmodel(model, folder, tables=tables)
        seconds = time.perf_counter() - start
        stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    done.set()
    watcher.join()
    return before, peak, seconds, stored


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="kaggle", show_default=True)
@backends_option
@click.option("--tables", default="float32", show_default=True)
@click.option("--here", is_flag=True, hidden=True)
@write_option
def main(shape: str, backends: tuple[str, ...], tables: str, here: bool, into_results: bool) -> None:
    """Build, predict and export on each backend, in a process of its own."""
    if here:
        click.echo(json.dumps(measure(shape, tables)))
        return
    size = SHAPES[shape].table_bytes
    rows = []
    for backend in backends:
        command = [sys.executable, __file__, "--here", "--shape", shape, "--tables", tables]
        before, peak, seconds, stored = measured(command, KERAS_BACKEND=backend)
        rows.append(
            {"backend": backend, "tables": f"{size / 1e9:.2f} GB", "on disk": f"{stored / 1e9:.2f} GB",
             "before": f"{before / 1e9:.2f} GB", "peak": f"{peak / 1e9:.2f} GB", "peak / before": f"{peak / before:.2f}",
             "(peak - before) / tables": f"{(peak - before) / size:.2f}", "seconds": f"{seconds:.0f}"}
        )  # fmt: skip
        click.echo(rows[-1])
    report(f"Memory of an export, {shape}, {tables} tables", machine(), markdown_table(rows), into_results)


if __name__ == "__main__":
    main()
