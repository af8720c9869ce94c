"""Peak memory of each of several processes that share a model's tables, over its share of tables and slots.

    python benchmarks/sharding_memory.py --write
    python benchmarks/sharding_memory.py --gib 2 --processes 2 --backend torch

Two tables of equal size, row-wise over all processes, row-wise Adagrad. What the same program takes with tiny tables is
not counted.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from pathlib import Path

import click
from results import backends_option, machine, markdown_table, report, write_option

DIM = 16


def train(rows: int, path: str) -> None:
    """One process: build, train ten steps, write the peaks of all."""
    import numpy as np

    import keras_dlrm as kd
    from keras_dlrm.sharding import collectives as backend
    from keras_dlrm.sharding import everyone
    from keras_dlrm.sharding.plan import place

    kd.sharding.start()
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", rows), kd.Categorical("b", rows)])
    shapes = {name: (n, DIM) for name, n in schema.table_sizes.items()}
    with kd.sharding.use(place(backend.world_size(), shapes, dict.fromkeys(shapes, "row_wise"))):
        model = kd.models.DLRM(schema, DIM, [32, DIM], [32, 1], seed=0)
    model.compile("rowwise_adagrad")
    draw = np.random.default_rng(0)
    for _ in range(10):
        ids = draw.integers(0, rows, (2048, 2)).astype(np.int32)
        batch = {"dense": draw.random((2048, 1), np.float32), "sparse": ids}
        whole = (batch, draw.integers(0, 2, 2048).astype(np.float32))
        model.train_on_batch(*kd.sharding.part_of(whole, backend.process_rank(), backend.process_count()))
    peaks = everyone.values(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    if backend.process_rank() == 0:
        Path(path).write_text(json.dumps(peaks), encoding="utf-8")
    kd.sharding.stop()


def peaks(backend: str, processes: int, rows: int) -> list[int]:
    """Bytes at the peak of each process."""
    from keras_dlrm.sharding.launch import launch

    with tempfile.TemporaryDirectory() as name:
        path = f"{name}/peaks.json"
        if launch(backend, processes, timeout=1200, command=[sys.executable, __file__, "--train", str(rows), path]):
            raise RuntimeError(f"{backend}: a process failed")
        return list(json.loads(Path(path).read_text(encoding="utf-8")))


@click.command()
@click.option("--gib", default=12.0, show_default=True, help="Of the tables.")
@click.option("--processes", default=4, show_default=True)
@backends_option
@write_option
def main(gib: float, processes: int, backends: tuple[str, ...], into_results: bool) -> None:
    """Measure each backend with large and with tiny tables."""
    rows = int(gib * 2**30) // (2 * 4 * DIM)
    share = 2 * rows * 4 * (DIM + 1) / processes
    table = []
    for backend in backends:
        tiny, large = peaks(backend, processes, 100), peaks(backend, processes, rows)
        more = max(b - a for a, b in zip(tiny, large, strict=True))
        table.append(
            {"backend": backend, "share of tables + slots": f"{share / 2**30:.2f} GiB",
             "peak": f"{max(large) / 2**30:.2f} GiB", "with tiny tables": f"{max(tiny) / 2**30:.2f} GiB",
             "difference / share": f"{more / share:.2f}"}
        )  # fmt: skip
        print(table[-1], file=sys.stderr)
    note = f"{machine()}, tables of {gib:g} GiB and slots of row-wise Adagrad over {processes} processes; the largest of them."
    report("Memory of sharded tables", note, markdown_table(table), into_results)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if sys.argv[1:2] == ["--train"]:
        train(int(sys.argv[2]), sys.argv[3])
    else:
        main()
