"""Time of a recommendation: candidates of 100,000 items, ranked by a DLRM, through one SavedModel on one core, without Keras.

    python benchmarks/recommend.py --write

The model is exported with its index; another process, in which Keras and this package cannot be imported, is held to one core,
loads it and answers requests of one user, one after the other, each with 50 items that the user has seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from results import machine, markdown_table, report, write_option

SEEN = 50
_CALLER = """
import json, os, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.modules["keras"] = sys.modules["tf_keras"] = sys.modules["keras_dlrm"] = None
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
serve, rows, requests = model.signatures[sys.argv[2]], int(sys.argv[3]), int(sys.argv[4])
draw, times = np.random.default_rng(0), []
for i in range(requests + 50):
    inputs = {
        "user": tf.constant(draw.integers(0, 100_000, 1)), "hour": tf.constant(draw.integers(0, 24, 1)),
        "history": tf.constant(draw.integers(0, rows, (1, 20))), "exclude": tf.constant(draw.integers(0, rows, (1, SEEN))),
    }
    start, worked = time.perf_counter(), time.process_time()
    answer = {name: value.numpy() for name, value in serve(**inputs).items()}
    times.append([1000 * (time.perf_counter() - start), 1000 * (time.process_time() - worked)])
assert (answer["ids"] >= 0).all()
print(json.dumps(times[50:]))
""".replace("SEEN", str(SEEN))


def prepare(folder: Path, items: int, candidates: int, dtypes: tuple[str, ...]) -> None:
    """Write the SavedModels, one for each dtype of the index."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras_dlrm as kd

    columns = [
        kd.Categorical("user", 100_000), kd.Categorical("hour", 24), kd.Categorical("history", items, hotness=20, table="item"),
        kd.Categorical("item", items), kd.Categorical("genre", 1_000, hotness=3), kd.Categorical("maker", 10_000),
    ]  # fmt: skip
    schema = kd.Schema(dense=["price"], categorical=columns)
    tower = kd.models.TwoTower(
        schema, user=["user", "hour", "history"], item=["price", "item", "genre", "maker"], item_id="item", embedding_dim=32,
        output_dim=64, user_mlp=[128], item_mlp=[128], seed=0,
    )  # fmt: skip
    ranker = kd.models.DLRM(schema, 16, bottom_mlp=[64, 16], top_mlp=[256, 128, 1], seed=1)
    draw = np.random.default_rng(0)
    catalog = {
        "item": np.arange(items), "price": draw.lognormal(size=items), "maker": draw.integers(0, 10_000, items),
        "genre": draw.integers(0, 1_000, (items, 3)),
    }  # fmt: skip
    for dtype in dtypes:
        index = kd.retrieval.Index.build(tower, catalog, dtype=dtype)
        kd.export.savedmodel(tower, folder / dtype, index=index, ranker=ranker, k=10, candidates=candidates)


@click.command()
@click.option("--items", default=100_000, show_default=True)
@click.option("--candidates", default=500, show_default=True)
@click.option("--requests", default=1000, show_default=True)
@click.option("--dtype", "dtypes", multiple=True, default=["float32", "bfloat16", "int8"], show_default=True)
@write_option
def main(items: int, candidates: int, requests: int, dtypes: tuple[str, ...], into_results: bool) -> None:
    """Measure `retrieve` and `recommend`, batch 1."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), items, candidates, dtypes)
        for dtype in dtypes:
            for signature in ("retrieve", "recommend"):
                command = [sys.executable, "-c", _CALLER, str(Path(name) / dtype / "1"), signature, str(items), str(requests)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                times, worked = np.array(json.loads(done.stdout.splitlines()[-1])).T
                figures = {f"p{q}, ms": f"{np.percentile(times, q):.1f}" for q in (50, 95, 99)}
                # On a machine that does other work, too, a request waits for the core; what it takes of it is the same.
                of_core = {f"of the core, p{q}, ms": f"{np.percentile(worked, q):.1f}" for q in (50, 99)}
                rows.append({"signature": signature, "index": dtype, **figures, **of_core})
    note = f"{items:,} items × 64, {candidates} candidates, batch 1, {SEEN} seen items left out, {requests:,} requests, one core. "
    report("Recommendation in two stages", note + machine(), markdown_table(rows), into_results)


if __name__ == "__main__":
    main()
