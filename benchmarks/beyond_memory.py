"""Speed of host tables against the share of rows on the device, and tables of 16 GiB in a process of 4.

    python benchmarks/beyond_memory.py --write
    python benchmarks/beyond_memory.py --log my-log --path /mnt/nvme/spill

A DLRM of Criteo's 13 dense and 26 sparse columns, width 16, Adagrad, batch 2048, trained by `fit`. The ids have the locality of a
trace: by default distances that fall so fast that the hundredth of the rows that were used last takes nine lookups in ten, as
Bagpipe measured of Criteo (Agarwal et al. 2022); with `--log` those of a processed log. The model in memory and those with host
tables take turns, each with its own batches, after so many that the caches are full.

Then one process is limited to 4 GiB of data (`RLIMIT_DATA`: all memory of its own, without mapped files), and trains tables and
slots of 16 GiB. Its ids are uniform over some rows of each table, far more than there are in the cache, so that rows go to the
file and come back several times. A model that has these rows alone, in memory, trains on the same batches: `--rounds 0`
is this part alone.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from results import RESULTS, backends_option, machine, markdown_table, report, write_option

COLUMNS, DENSE, DIM, BATCH = 26, 13, 16, 2048
USED = 100_000  # rows of each table of the limited process that its ids are of
PLOT = "beyond_memory.png"


def schema(rows: int) -> Any:
    """Criteo's columns with so many rows in all tables."""
    import keras_dlrm as kd

    columns = [kd.Categorical(f"C{i}", rows // COLUMNS) for i in range(COLUMNS)]
    return kd.Schema([f"I{i}" for i in range(DENSE)], columns, "click")


def batches(rows: int, steps: int, log: str | None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows of so many steps."""
    import keras_dlrm as kd
    from keras_dlrm.data.synthetic import StackProfile

    profile: Any = StackProfile.power(1.3, rows // COLUMNS - 1, cold=0.002)
    if log is not None:
        part = kd.data.open(log).split("train")
        ids = part.arrays()[0]["sparse"][:1_000_000]
        profile = {f"C{i}": StackProfile.measured(ids[:, i % ids.shape[1]]) for i in range(COLUMNS)}
    trace = kd.data.synthetic.TraceClickLog(schema(rows), profile, seed=0)
    parts = [part for part, _ in zip(trace.batches(BATCH), range(steps), strict=False)]
    return {name: np.concatenate([x[name] for x, _ in parts]) for name in parts[0][0]}, np.concatenate([y for _, y in parts])


def model(rows: int, host: Any) -> Any:
    """The model, with host tables or without."""
    import keras_dlrm as kd

    options = {} if host is None else {"embedding_options": {"host": host}}
    made = kd.models.DLRM(schema(rows), DIM, bottom_mlp=[512, 256, 64, DIM], top_mlp=[512, 256, 1], seed=0, **options)
    made.compile("adagrad")
    return made


def speed(rows: int, shares: list[float], rounds: int, steps: int, path: str, log: str | None) -> dict[str, Any]:
    """Seconds of a step, in each round, of a model in memory ("1") and of those with a share of the rows."""
    import keras_dlrm as kd

    x, y = batches(rows, steps * (rounds + 1), log)
    hosts = {"1": None, **{str(share): kd.HostTables(path, int(share * rows)) for share in shares}}
    models = {name: model(rows, host) for name, host in hosts.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    losses: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):
        some = slice(number * steps * BATCH, (number + 1) * steps * BATCH)
        part = {name: array[some] for name, array in x.items()}
        for name, each in models.items():
            start = time.perf_counter()
            history = each.fit(part, y[some], batch_size=BATCH, shuffle=False, verbose=0).history
            losses[name] += history["loss"]
            if number:
                times[name].append((time.perf_counter() - start) / steps)
    return {"times": times, "same": all(each == losses["1"] for each in losses.values())}


def limited(gib: float, limit: float, device_rows: int, steps: int, path: str) -> dict[str, Any]:
    """Training of tables and slots of so many GiB in a process that may have so many; losses next to those of a copy in memory."""
    import keras

    import keras_dlrm as kd
    from keras_dlrm.embeddings.host.row_file import RowFile

    rows = int(gib * 2**30) // (8 * DIM) // COLUMNS
    used = np.arange(USED) * (rows // USED)  # of each table
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**30),) * 2)
    moved = {"read": 0, "write": 0}

    def counted(name: str) -> None:
        plain = getattr(RowFile, name)

        def count(file: Any, places: np.ndarray, *values: Any) -> Any:
            moved[name] += len(places) * 8 * DIM
            return plain(file, places, *values)

        setattr(RowFile, name, count)

    counted("read"), counted("write")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, USED, (steps * BATCH, COLUMNS), dtype=np.int32)
    dense = rng.normal(size=(steps * BATCH, DENSE)).astype(np.float32)
    y = rng.integers(0, 2, steps * BATCH).astype(np.float32)
    made, copy = model(COLUMNS * rows, kd.HostTables(path, device_rows)), model(COLUMNS * USED, None)
    (stack,) = made.embeddings.store.hosts
    (table,) = made.embeddings.tables
    copy.set_embedding_tables({f"C{i}": stack.read_at(table, used + i * rows) for i in range(COLUMNS)})
    losses, seconds = [], []
    for each, sparse in ((made, used.astype(np.int32)[ids]), (copy, ids)):
        start = time.perf_counter()
        history = each.fit({"dense": dense, "sparse": sparse}, y, batch_size=BATCH, shuffle=False, epochs=2, verbose=0).history
        seconds.append((time.perf_counter() - start) / (2 * steps))
        losses.append(history["loss"])
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "backend": keras.backend.backend(), "tables + slots": f"{rows * COLUMNS * 8 * DIM / 2**30:.1f} GiB",
        "limit": f"{limit:g} GiB", "data of the process": f"{int(status['VmData'].split()[0]) / 2**20:.2f} GiB",
        "rows in the cache": f"{device_rows:,}", "rows used": f"{COLUMNS * USED:,}", "file": f"{stack.disk / 2**30:.2f} GiB",
        "written": f"{moved['write'] / 2**30:.2f} GiB", "read": f"{moved['read'] / 2**30:.2f} GiB",
        "ms a step": f"{1e3 * seconds[0]:.1f}", "in memory": f"{1e3 * seconds[1]:.1f}", "loss": f"{losses[0][-1]:.4f}",
        "same losses": "yes" if losses[0] == losses[1] else "no",
    }  # fmt: skip


def child(backend: str, task: str, **arguments: Any) -> Any:
    """The result of a task in a process of its own."""
    command = [sys.executable, __file__, "--task", json.dumps({"task": task, **arguments})]
    done = subprocess.run(command, env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def lines(backend: str, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """A table's line for each share, with the median of the rounds and of their ratios to the model in memory."""
    memory = np.array(measured["times"]["1"])
    made: list[dict[str, Any]] = []
    for share, times in measured["times"].items():
        ratio = float(np.median(memory / np.array(times)))
        made.append({
            "backend": backend, "rows on the device": "all" if share == "1" else f"{float(share):.0%}",
            "ms a step": f"{1e3 * float(np.median(times)):.2f}", "speed / in memory": f"{ratio:.2f}",
            "same losses": "yes" if measured["same"] else "no",
        })  # fmt: skip
    return made


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Speed against resident share, as PNG."""
    from keras_dlrm.files.picture import picture

    with picture(path, "Speed of host tables, in parts of that in memory", (5.5, 3.5)) as figure:
        panel = figure.subplots()
        for backend, measured in results.items():
            times = {float(share): np.array(each) for share, each in measured["times"].items()}
            shares = sorted(times)
            panel.plot(shares, [float(np.median(times[1.0] / times[share])) for share in shares], marker="o", label=backend)
        panel.set(xscale="log", xlabel="share of the rows on the device", ylim=(0, 1.1))
        panel.grid(alpha=0.3)
        panel.legend()


@click.command()
@click.option("--rows", default=10_400_000, show_default=True, help="Rows of all tables, of the models that are compared.")
@click.option("--share", "shares", type=float, multiple=True, default=(0.03, 0.1, 0.3), show_default=True)
@click.option("--rounds", default=5, show_default=True, help="0: leave the comparison out.")
@click.option("--steps", default=100, show_default=True, help="Steps of a round.")
@click.option("--gib", default=16.0, show_default=True, help="Tables and slots of the limited process; 0: leave it out.")
@click.option("--limit", default=4.0, show_default=True, help="GiB of data that it may have.")
@click.option("--device-rows", default=200_000, show_default=True, help="Rows of its cache.")
@click.option("--path", default="spill", show_default=True, help="Folder for the files of rows.")
@click.option("--log", help="Processed directory whose locality the ids shall have.")
@click.option("--task", hidden=True)
@backends_option
@write_option
def main(
    rows: int, shares: tuple[float, ...], rounds: int, steps: int, gib: float, limit: float, device_rows: int, path: str,
    log: str | None, task: str | None, backends: tuple[str, ...], into_results: bool,
) -> None:  # fmt: skip
    """Measure each backend in a process of its own."""
    if task is not None:
        wanted = json.loads(task)
        print(json.dumps({"speed": speed, "limited": limited}[wanted.pop("task")](**wanted)))
        return
    path = str(Path(path).absolute())
    results, table, under = {}, [], []
    for backend in backends:
        if rounds:
            log = log and str(Path(log).absolute())
            results[backend] = child(backend, "speed", rows=rows, shares=shares, rounds=rounds, steps=steps, path=path, log=log)
            table += lines(backend, results[backend])
            click.echo(markdown_table(table))
        if gib:
            under.append(child(backend, "limited", gib=gib, limit=limit, device_rows=device_rows, steps=steps, path=path))
    note = f"{machine()}, {rows:,} rows of width {DIM}, Adagrad, batch {BATCH}, medians of {rounds} rounds of {steps} steps."
    text = "\n\n".join(markdown_table(part) for part in (table, under) if part)
    if into_results and results:
        draw(results, RESULTS.parent / PLOT)
        text += f"\n\n![speed against resident share]({PLOT})"
    report("Tables beyond memory", note, text, into_results)


if __name__ == "__main__":
    main()
