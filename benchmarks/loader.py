"""Costs of reading: the loader alone beside the training step, and `model.fit` from files beside batches held in memory.

    python benchmarks/loader.py
    python benchmarks/loader.py --rows 8000000 --write
    python benchmarks/loader.py --backend jax --shape kaggle-1e-3 --steps 20 --rounds 3

Rows are read in a shuffle over all of them from memory-mapped files that are in the page cache. For each backend one model trains
in turns on batches as they come from the files and on the same batches held in memory; each round is another shuffle. `--cold` also
reads batches after the files were dropped from the page cache (Linux; nothing else may hold them).
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from results import backends_option, machine, markdown_table, measured, report, write_option
from workload import SHAPES, Shape, draw_ids

BLOCK = 250_000


def write_log(folder: Path, shape: Shape, rows: int) -> None:
    """A processed directory of random rows."""
    from keras_dlrm.data.packed.writer import PackedWriter

    rng = np.random.default_rng(0)
    with PackedWriter(folder, shape.schema()) as writer:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            dense = rng.random((count, shape.n_dense), dtype=np.float32)
            batch = {"dense": dense, "sparse": draw_ids(rng, shape, count, "zipf")}
            writer.append("train", batch, rng.integers(0, 2, count))


def loading(folder: Path, batch: int, rounds: int, cold: bool) -> list[dict[str, Any]]:
    """Milliseconds a batch of the loader alone, by how it reads."""
    import keras_dlrm as kd

    part = kd.data.open(folder).split("train")
    found = []
    ways: list[tuple[str, dict[str, Any]]] = [
        ("shuffled", {"shuffle": True, "prefetch": 0}),
        ("shuffled, 2 read ahead", {"shuffle": True, "prefetch": 2}),
        ("in file order", {"prefetch": 0}),
    ]
    times: dict[str, list[float]] = {name: [] for name, _ in ways}
    for round_ in range(-1, rounds):
        for name, options in ways:
            dataset = part.dataset(batch, last="drop", seed=round_ + 1, **options)
            start = time.perf_counter()
            for _ in dataset:
                pass
            if round_ >= 0:
                times[name].append(1000 * (time.perf_counter() - start) / len(dataset))
    found += [{"loader": name, "ms": statistics.median(ms)} for name, ms in times.items()]
    if cold:
        for ahead in (0, 8, 32):
            # Pages that are mapped stay in the cache: those of an earlier reader, too.
            part = dataset = None  # type: ignore[assignment]
            gc.collect()
            _drop_from_cache(folder)
            part = kd.data.open(folder).split("train")
            dataset = part.dataset(batch, last="drop", shuffle=True, prefetch=ahead)
            steps = min(len(dataset), 50)
            start = time.perf_counter()
            for index in range(steps):
                dataset[index]
            ms = 1000 * (time.perf_counter() - start) / steps
            found.append({"loader": f"shuffled, first {steps} batches from disk, {ahead} read ahead", "ms": ms})
    return found


def _drop_from_cache(folder: Path) -> None:
    for path in folder.rglob("*.npy"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fitting(folder: Path, shape: Shape, batch: int, steps: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a step of `model.fit` on this process's backend, from files and from memory."""
    import keras

    import keras_dlrm as kd

    class Held(keras.utils.PyDataset):
        """Batches in memory."""

        def __init__(self, batches: list[Any]) -> None:
            super().__init__()
            self.batches = batches

        def __len__(self) -> int:
            return len(self.batches)

        def __getitem__(self, index: int) -> Any:
            return self.batches[index]

    log = kd.data.open(folder)
    part = log.split("train")
    model = kd.models.DLRM(log.schema, shape.dim, shape.bottom, shape.top, seed=0)
    model.compile(kd.optimizers.SGD(0.1), "binary_crossentropy", embedding_optimizer=kd.optimizers.RowwiseAdagrad(0.01))
    skip = len(part) // batch - steps

    def files(seed: int, prefetch: int) -> Any:
        return part.dataset(batch, shuffle=True, seed=seed, last="drop", prefetch=prefetch, start_batch=skip)

    times: dict[str, list[float]] = {"memory": [], "files": [], "files, 2 read ahead": []}
    for round_ in range(-1, rounds):
        sources = {
            "memory": Held(list(files(round_ + 1, 0))),
            "files": files(round_ + 1, 0),
            "files, 2 read ahead": files(round_ + 1, 2),
        }
        names = list(sources)
        turn = round_ % len(names)  # nobody always follows the same one
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            model.fit(sources[name], verbose=0, shuffle=False)
            if round_ >= 0:
                times[name].append(1000 * (time.perf_counter() - start) / steps)
    return times


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="kaggle", show_default=True)
@click.option("--batch", default=2048, show_default=True)
@click.option("--rows", default=2_000_000, show_default=True, help="Rows of the log: 160 bytes each.")
@backends_option
@click.option("--steps", default=60, show_default=True, help="Steps of a round of fit.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--cold", is_flag=True, help="Also read from disk.")
@write_option
@click.option("--measure", hidden=True, help="What a process of its own measures: loader or fit.")
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    shape: str, batch: int, rows: int, backends: tuple[str, ...], steps: int, rounds: int, cold: bool, into_results: bool,
    measure: str | None, folder: Path | None,
) -> None:  # fmt: skip
    """Measure and print medians and ratios."""
    if rows // batch < steps:
        raise click.UsageError(f"--rows {rows} make {rows // batch} batches of {batch}; --steps {steps} needs as many.")
    if measure:
        assert folder is not None
        work = loading(folder, batch, rounds, cold) if measure == "loader" else None
        click.echo(json.dumps(work or fitting(folder, SHAPES[shape], batch, steps, rounds)))
        return
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        write_log(log, SHAPES[shape], rows)
        options = ["--shape", shape, "--batch", batch, "--rows", rows, "--steps", steps, "--rounds", rounds]
        options += ["--folder", log] + ["--cold"] * cold
        loaders = _process("loader", options, backends[0])
        fits = {backend: _process("fit", options, backend) for backend in backends}
    note = f"{machine()}, {rows:,} rows, batch {batch}, medians of {rounds} rounds of {steps} steps."
    report(f"Loading, {shape}, batch {batch}", note, tables(loaders, fits, batch), into_results)


def _process(measure: str, options: list[Any], backend: str) -> Any:
    click.echo(f"{measure}, {backend}", err=True)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, "--measure", measure, *map(str, options)]
    return measured(command, KERAS_BACKEND=backend, PYTHONPATH=path)


def tables(loaders: list[dict[str, Any]], fits: dict[str, dict[str, list[float]]], batch: int) -> str:
    """The loader beside each backend's step, and fit from files beside fit from memory."""
    steps = {backend: statistics.median(times["memory"]) for backend, times in fits.items()}
    first = [
        {"loader": found["loader"], "ms a batch": f"{found['ms']:.2f}", "samples/s": f"{1000 * batch / found['ms']:,.0f}",
         **{f"× the step, {backend}": f"{ms / found['ms']:.0f}" for backend, ms in steps.items()}}
        for found in loaders
    ]  # fmt: skip
    second = []
    for backend, times in fits.items():
        row = {"fit": backend, "from memory, ms a step": f"{steps[backend]:.1f}"}
        for name in ("files", "files, 2 read ahead"):
            ratios = [a / b for a, b in zip(times[name], times["memory"], strict=True)]
            row[f"from {name}, ms a step"] = f"{statistics.median(times[name]):.1f}"
            row[f"{name}: time beside memory"] = f"{statistics.median(ratios) - 1:+.1%}"
        second.append(row)
    return f"{markdown_table(first)}\n\n{markdown_table(second)}"


if __name__ == "__main__":
    main()
