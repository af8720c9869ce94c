"""Open vocabularies on a log that never stops bringing new ids: AUC beside other tables, and the map's share of a step.

    python benchmarks/open_vocabulary.py --write
    python benchmarks/open_vocabulary.py --backend torch --part auc

The planted log has ten times as many ids as an open vocabulary has rows: new ids take the places of old ones. A DLRM passes over
it once, in order of time, and before it trains on the next rows it predicts their clicks (progressive validation). A table of all
ids, an open vocabulary and hashing into as many rows see the same rows.

Then the model of train_step.py, Criteo Kaggle's 26 columns with a tenth of its rows, trains by `fit` with hashed columns and with
open ones, in turns.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click
import numpy as np
from results import backends_option, machine, markdown_table, measured, report, write_option
from workload import SHAPES, draw_ids

BATCH, COLUMNS, GENERATIONS = 2048, 4, 5
ARMS = ("unlimited", "open", "hashed")


def column(name: str, arm: str, ids: int, rows: int) -> Any:
    """A column of so many ids with a table of all of them, or of so many rows."""
    import keras_dlrm as kd

    if arm == "unlimited":
        return kd.Categorical(name, ids)
    if arm == "open":
        return kd.Categorical(name, open=kd.Open(rows=rows, admit=2, evict="lfu"))
    return kd.Categorical(name, rows, hashed=True)


def model(columns: list[Any], dense: int, bottom: list[int], top: list[int], rate: float) -> Any:
    """A compiled DLRM of these columns."""
    import keras_dlrm as kd

    schema = kd.Schema([f"I{i}" for i in range(dense)], columns, "click")
    made = kd.models.DLRM(schema, 16, bottom_mlp=bottom, top_mlp=top, seed=0)
    made.compile(kd.optimizers.Adagrad(rate), embedding_optimizer=kd.optimizers.RowwiseAdagrad(rate))
    return made


def auc(ids: int, rows: int, parts: int) -> dict[str, Any]:
    """AUC of each arm in progressive validation over rows of a log, in so many parts, without the first one."""
    import keras_dlrm as kd
    from keras_dlrm.data.synthetic import Drift, PlantedClickLog

    names = [f"C{i}" for i in range(COLUMNS)]
    schema = kd.Schema(["I0", "I1"], [kd.Categorical(name, ids) for name in names], "click")
    log = PlantedClickLog(schema, seed=0, drift=Drift(rows, generations=GENERATIONS))
    models = {arm: model([column(n, arm, ids, ids // 10) for n in names], 2, [16], [64, 32, 1], 0.05) for arm in ARMS}
    predictions: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
    labels = []
    for number, (x, y) in enumerate(log.batches(rows // parts, parts)):
        labels += [y] if number else []
        for arm, each in models.items():
            if number:
                predictions[arm].append(each.predict(x, batch_size=8 * BATCH, verbose=0)[:, 0])
            each.fit(x, y, batch_size=512, shuffle=False, verbose=0)
    y, tested = np.concatenate(labels), {arm: np.concatenate(each) for arm, each in predictions.items()}
    first = rows // parts
    made: dict[str, Any] = {"best": log.best("train", rows - first, first)["drawn_auc"], "rows": len(y)}
    for arm, each in tested.items():
        both = kd.metrics.paired_difference(y, tested["open"], each) if arm != "open" else {}
        score = kd.metrics.scores(y, each)["auc"]
        made[arm] = [score, *([both["auc"].difference, both["auc"].low, both["auc"].high] if both else [])]
    slots = [each.slots for each in models["open"].embeddings.open.tables.values()]
    made["occupancy"] = sum(s.occupied for s in slots) / sum(s.rows - 1 for s in slots)
    made["evicted"] = sum(s.evicted for s in slots)
    return made


def share(scale: int, steps: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a step of the hashed model and of the open one, and of the map alone, in each round."""
    shape = SHAPES["kaggle"]
    rng = np.random.default_rng(0)
    models = {
        arm: model(
            [column(f"C{i}", arm, n, max(16, n // scale)) for i, n in enumerate(shape.rows)],
            shape.n_dense, list(shape.bottom), list(shape.top), 0.01,
        )
        for arm in ("hashed", "open")
    }  # fmt: skip
    tables = models["open"].embeddings.open
    of_map, call = [0.0], tables.__class__.__call__

    class Timed(tables.__class__):  # type: ignore[misc, name-defined]
        """The same maps, with a clock."""

        def __call__(self, *arguments: Any) -> Any:
            # Of the processor: on JAX a write waits for the step before it, beside which the map is asked.
            start = time.thread_time()
            made = call(self, *arguments)
            of_map[0] += time.thread_time() - start
            return made

    tables.__class__ = Timed
    made: dict[str, list[float]] = {"hashed": [], "open": [], "map": []}
    for round_ in range(rounds + 1):
        n = BATCH * steps
        x = {"dense": rng.random((n, shape.n_dense), dtype=np.float32), "sparse": draw_ids(rng, shape, n, "zipf")}
        y = rng.integers(0, 2, n).astype(np.float32)
        of_map[0] = 0.0
        for arm in ("hashed", "open") if round_ % 2 else ("open", "hashed"):
            start = time.perf_counter()
            models[arm].fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
            made[arm] += [1e3 * (time.perf_counter() - start) / steps] if round_ else []
        made["map"] += [1e3 * of_map[0] / steps] if round_ else []
    return made


def lines(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A table's line for each backend."""
    made: list[dict[str, Any]] = []
    for backend, times in results.items():
        hashed, opened, own = (np.array(times[name]) for name in ("hashed", "open", "map"))
        made.append({
            "backend": backend, "hashed, ms a step": f"{np.median(hashed):.2f}", "open, ms a step": f"{np.median(opened):.2f}",
            "open / hashed": f"{np.median(opened / hashed):.3f}", "the map's own, ms": f"{np.median(own):.2f}",
            "share of a step": f"{np.median(own / opened):.1%}",
        })  # fmt: skip
    return made


def arms(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A table's line for each arm."""
    made: list[dict[str, Any]] = [{"table": "best possible", "AUC": f"{result['best']:.4f}", "open − it (95%)": ""}]
    for arm in ARMS:
        score, *both = result[arm]
        interval = f"{both[0]:+.4f} ({both[1]:+.4f} … {both[2]:+.4f})" if both else ""
        made.append({"table": arm, "AUC": f"{score:.4f}", "open − it (95%)": interval})
    return made


@click.command()
@click.option("--part", type=click.Choice(["auc", "share", "both"]), default="both", show_default=True)
@click.option("--ids", default=100_000, show_default=True, help="Ids of each column of the planted log.")
@click.option("--rows", default=2_000_000, show_default=True, help="Rows of the planted log.")
@click.option("--parts", default=20, show_default=True, help="Parts that are predicted and then trained on.")
@click.option("--scale", default=10, show_default=True, help="Ids of Criteo's columns for each row of their tables.")
@click.option("--steps", default=100, show_default=True, help="Steps of a round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--task", hidden=True)
@backends_option
@write_option
def main(
    part: str, ids: int, rows: int, parts: int, scale: int, steps: int, rounds: int, task: str | None, backends: tuple[str, ...],
    into_results: bool,
) -> None:  # fmt: skip
    """AUC on the first backend, for it is the same on all; a step's time on each, in a process of its own."""
    if task is not None:
        wanted = json.loads(task)
        print(json.dumps({"auc": auc, "share": share}[wanted.pop("task")](**wanted)))
        return

    def child(backend: str, name: str, **arguments: int) -> Any:
        return measured([sys.executable, __file__, "--task", json.dumps({"task": name, **arguments})], KERAS_BACKEND=backend)

    if part != "share":
        result = child(backends[0], "auc", ids=ids, rows=rows, parts=parts)
        note = (
            f"{machine()}, {backends[0]}. {COLUMNS} columns of {ids:,} ids, of which {ids // GENERATIONS:,} are there at a time; "
            f"{ids // 10:,} rows for those of an open vocabulary. {rows:,} rows in order of time, AUC of the predictions before "
            f"each of {parts - 1} parts. At the end {result['occupancy']:.0%} of the rows were in use, and {result['evicted']:,} "
            "ids had lost theirs."
        )
        report("Open vocabularies on a log of ever new ids", note, markdown_table(arms(result)), into_results)
    if part != "auc":
        results = {backend: child(backend, "share", scale=scale, steps=steps, rounds=rounds) for backend in backends}
        note = f"{machine()}, batch {BATCH}, row-wise Adagrad, medians of {rounds} rounds of {steps} steps, `fit` in turns."
        report("A step with open vocabularies", note, markdown_table(lines(results)), into_results)


if __name__ == "__main__":
    main()
