"""Time to quality: from raw files to a test AUC, beside FuxiCTR, DeepCTR-Torch, TorchRec and LightGBM; and to the first batch.

The data are not ours to ship: point `--source` at a folder with your copies. The planted log needs none.

    python benchmarks/time_to_quality.py --source data --peers-python baselines/bin/python --write
    python benchmarks/time_to_quality.py --log planted --rows 100000 --program torch
    python benchmarks/time_to_quality.py --first-batch --log frappe --source data --write

Programs run one after the other, each log's in one run. A program's clock starts with its command and stands still while the
test part is scored, after each epoch (each 20 trees). CPU seconds, which a busy machine changes less, likewise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
from contest import has_peer
from defaults import LOGS as PUBLIC
from defaults import command
from results import RESULTS, machine, markdown_table, report, write_option

import keras_dlrm as kd
from keras_dlrm.metrics.scores import auc
from keras_dlrm.training.experiment import EXPERIMENT, ROWS, SCALE, Experiment

BACKENDS = ("tensorflow", "jax", "torch")
PEERS = {"fuxictr": "FuxiCTR", "deepctr_torch": "DeepCTR-Torch, DeepFM", "torchrec": "TorchRec, DLRM", "lightgbm": "LightGBM"}
HERE = Path(__file__).parent
PROGRAM = HERE / "peers" / "to_quality.py"
# Our experiment, and the AUC to reach: that of FuxiCTR's DLRM; on the planted log what is GAP below the best possible.
LOGS: dict[str, tuple[str, float]] = {
    "ml-1m": ("ml-1m_dlrm.yaml", 0.8078), "frappe": ("frappe_dlrm.yaml", 0.9778), "criteo 20k": ("criteo_dlrm.yaml", 0.7558),
    "planted": ("", 0.0),
}  # fmt: skip
GAP = 0.006
# Sizes and rates of the neural peers: FuxiCTR's usual ones; on the small log and the planted one those of our experiment.
USUAL: dict[str, Any] = {
    "embedding_dim": 10, "bottom": [400], "top": [400, 400, 400], "dropout": 0.2, "learning_rate": 0.001, "batch_size": 4096,
    "l2": 0,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "frappe": {"l2": 0.1},  # of FuxiCTR alone; without it FuxiCTR ends at .952
    "criteo 20k": {"embedding_dim": 8, "bottom": [64], "top": [64], "dropout": 0.3, "batch_size": 512},
    "planted": {"embedding_dim": 16, "bottom": [64], "top": [128, 64], "dropout": 0.0, "learning_rate": 0.005, "batch_size": 1024},
}
EPOCHS = 30


def planted(folder: Path, rows: int) -> tuple[kd.Schema, float]:
    """Write a planted log as Parquet; its schema, and the AUC to reach."""
    log = kd.data.synthetic.PlantedClickLog(kd.data.synthetic.criteo_shape(SCALE), seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in {**ROWS, "train": rows}.items():
        batch, labels = next(log.batches(count, n_batches=1, part=part))
        names = [column.name for column in log.schema.categorical]
        columns = {name: batch["dense"][:, i] for i, name in enumerate(log.schema.dense_names)}
        columns |= {name: batch["sparse"][:, i] for i, name in enumerate(names)}
        pl.DataFrame({**columns, "label": labels.astype(np.int8)}).write_parquet(folder / f"{part}.parquet")
        if part == "test":
            target = auc(labels, log.probabilities(batch)) - GAP
    dense = [kd.Dense(name, transform="none") for name in log.schema.dense_names]
    return kd.Schema(dense=dense, categorical=[kd.Categorical(name) for name in names], label="label"), target


def raw(name: str, source: Path | None, rows: int, work: Path) -> tuple[Path, kd.Schema, float]:
    """The raw files of a log, its schema, and the AUC to reach."""
    folder = work / name.replace(" ", "-")
    if name == "planted":
        schema, target = planted(folder, rows)
    else:
        if source is None:
            raise click.UsageError(f"--log {name!r} needs --source: a folder with the public logs.")
        where, read_log = PUBLIC[name]
        schema, frames = read_log(source / where)
        folder.mkdir(parents=True, exist_ok=True)
        for part, frame in frames.items():
            frame.write_parquet(folder / f"{part}.parquet")
        target = LOGS[name][1]
    np.save(folder / "test_labels.npy", pl.read_parquet(folder / "test.parquet")[schema.label].to_numpy())
    return folder, schema, target


def experiment(name: str, rows: int) -> Experiment:
    """Ours: the committed one of a public log; for the planted log the built-in one, its rate falling over two epochs."""
    if name != "planted":
        return Experiment.load(HERE / "configs" / LOGS[name][0])
    rate = {"learning_rate": 0.005, "warmup_steps": 50, "decay_start_step": 50, "decay_steps": max(1, 2 * rows // 1024 - 50)}
    return dataclasses.replace(EXPERIMENT, optimizer={"name": "adam", "learning_rate": rate})


def asked(name: str, folder: Path, schema: kd.Schema, rows: int) -> dict[str, Any]:
    """Description of a log that programs are given."""
    types = pl.read_parquet_schema(folder / "train.parquet")
    columns = {
        "dense": list(schema.dense_names), "categorical": {each.name: each.hotness for each in schema.categorical},
        "types": {each.name: "int" if types[each.name].is_integer() else "str" for each in schema.categorical},
        "label": schema.label, "counts": name != "planted",
    }  # fmt: skip
    ours = experiment(name, rows).to_dict()
    return {"columns": columns, "sizes": {**USUAL, **OWN.get(name, {})}, "schema": schema.to_dict(), "experiment": ours}


def usage(process: int, seconds: dict[int, float]) -> int:
    """Bytes of a process and its descendants, shared pages by their shares; `seconds` gets the CPU time of each."""
    total, waiting = 0, [process]
    while waiting:
        each = waiting.pop()
        with contextlib.suppress(OSError, StopIteration):  # ended meanwhile
            for task in Path(f"/proc/{each}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            seconds[each] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            total += next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def run(python: str, program: str, folder: Path, options: dict[str, Any], backend: str = "") -> dict[str, Any]:
    """One program's seconds, AUC by seconds, CPU seconds and peak memory, its child processes included."""
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryFile("w+") as output:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": backend, "RAY_worker_niceness": "0"}
        line = json.dumps({**options, "work": work, "start": time.time()})
        process = subprocess.Popen([python, PROGRAM, program, folder, line], stdout=output, env=environment)
        peak = 0
        of_cpu: dict[int, float] = {}
        while process.poll() is None:
            peak = max(peak, usage(process.pid, of_cpu))
            time.sleep(1.0)
        output.seek(0)
        if process.returncode:
            raise RuntimeError(f"{program} ended with {process.returncode}:\n{output.read()}")
        result = json.loads(output.read().splitlines()[-1])
        return {**result, "peak": peak, "cpu": sum(of_cpu.values()) - result["scoring"]}


def row(name: str, target: float, result: dict[str, Any], fuxictr: dict[str, Any] | None) -> dict[str, str]:
    """A line of the table."""
    parts, seconds, area = result["parts"], *result["points"][-1]
    first, evaluation = parts.get("first step", 0.0), parts.get("evaluation", 0.0)
    training = parts["fit"] - first - evaluation
    reached = area >= target
    return {
        "program": name, "seconds": f"{seconds:.1f}" if reached else f"not in {seconds:.0f}",
        "CPU s": f"{result['cpu']:.1f}",
        "of FuxiCTR's s": f"{seconds / fuxictr['points'][-1][0]:.2f}" if fuxictr and reached else "",
        "CPU": f"{result['cpu'] / fuxictr['cpu']:.2f}" if fuxictr and reached else "", "epochs": str(len(result["points"])),
        "test AUC": f"{max(auc for _, auc in result['points']):.4f}",
        "import": f"{parts['import']:.1f}", "preprocessing": f"{parts['preprocessing']:.1f}",
        "building, first step": f"{parts['compilation'] + first:.1f}", "training": f"{training:.1f}",
        "evaluation": f"{evaluation:.1f}", "peak, GB": f"{result['peak'] / 1e9:.2f}",
    }  # fmt: skip


def plot(log: str, target: float, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """AUC against seconds; the picture's file name."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.8))
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.axhline(target, color="0.5", linewidth=0.8, linestyle="--")
    axes.set(xlabel="seconds", ylabel="test AUC", title=log, xscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
    figure.tight_layout()
    path = RESULTS.parent / f"time_to_quality_{log.replace(' ', '_')}.png"
    figure.savefig(path, dpi=110)
    return path.name


def first_batch_of(log: str, output: str, backend: str) -> tuple[float, float]:
    """Seconds and CPU seconds from a command to its first trained batch: the file that a run can resume from is there then."""
    start = time.time()
    line = [*command("train"), "--data", log, "--output", output, "--set", "checkpoint_steps=1"]
    process = subprocess.Popen(line, env={**os.environ, "KERAS_BACKEND": backend}, stderr=subprocess.DEVNULL)
    try:
        while not Path(output, "resume.npz").exists():
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(line)} ended with {process.returncode}.")
            time.sleep(0.01)
        seconds, of_cpu = time.time() - start, dict[int, float]()
        usage(process.pid, of_cpu)
        return seconds, sum(of_cpu.values())
    finally:
        process.kill()
        process.wait()


def first_batches(log: str, folder: Path, schema: kd.Schema, rounds: int, backends: Sequence[str]) -> list[dict[str, str]]:
    """Medians of the seconds to a first batch on a prepared log, backends in turns."""
    with tempfile.TemporaryDirectory() as work:
        kd.data.tables.preprocess(schema, **{part: folder / f"{part}.parquet" for part in ROWS}, output=f"{work}/log")
        seconds: dict[str, list[tuple[float, float]]] = {backend: [] for backend in backends}
        for each in range(rounds):
            for backend in backends:
                seconds[backend].append(first_batch_of(f"{work}/log", f"{work}/{backend}-{each}", backend))
    lines = []
    for backend, pairs in seconds.items():
        wall, of_cpu = (statistics.median(each) for each in zip(*pairs, strict=True))
        lines.append({"log": log, "backend": backend, "seconds": f"{wall:.1f}", "CPU s": f"{of_cpu:.1f}"})
    return lines


@click.command()
@click.option("--source", type=click.Path(path_type=Path, exists=True), help="Folder with the folders of the public logs.")
@click.option("--log", "logs", multiple=True, type=click.Choice(list(LOGS)), default=list(LOGS), help="Only this; may be repeated.")
@click.option("--program", "programs", multiple=True, type=click.Choice([*BACKENDS, *PEERS]), default=[*BACKENDS, *PEERS])
@click.option("--rows", default=ROWS["train"], show_default=True, help="Training rows of the planted log.")
@click.option("--limit", default=900, show_default=True, help="Seconds after which a program has not reached the AUC.")
@click.option("--seed", default=0, show_default=True)
@click.option("--first-batch", is_flag=True, help="Instead: seconds until `keras-dlrm train` has trained its first batch.")
@click.option("--rounds", default=3, show_default=True, help="Of --first-batch; the median counts.")
@click.option("--peers-python", default=sys.executable, help="Interpreter with peers/requirements-baselines.txt.")
@write_option
def main(
    source: Path | None, logs: tuple[str, ...], programs: tuple[str, ...], rows: int, limit: int, seed: int, first_batch: bool,
    rounds: int, peers_python: str, into_results: bool,
) -> None:  # fmt: skip
    """Measure the way to an AUC."""
    missing = {name for name in programs if name in PEERS and not has_peer(peers_python, name, "requirements-baselines.txt")}
    ordered = sorted(set(programs) - missing, key=lambda name: (name != "fuxictr", programs.index(name)))
    first: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as work:
        for log in logs:
            folder, schema, target = raw(log, source, rows, Path(work))
            if first_batch:
                first += first_batches(log, folder, schema, rounds, [name for name in programs if name in BACKENDS])
                continue
            options = {**asked(log, folder, schema, rows), "target": target, "limit": limit, "seed": seed, "epochs": EPOCHS}
            table: list[dict[str, str]] = []
            curves: dict[str, Any] = {}
            fuxictr = None
            for program in ordered:
                ours = program in BACKENDS
                python, kind = (sys.executable, "keras_dlrm") if ours else (peers_python, program)
                result = run(python, kind, folder, options, program if ours else "")
                name = f"keras_dlrm, {program}" if ours else PEERS[program]
                curves[name] = result["points"]
                if program == "fuxictr" and result["points"][-1][1] >= target:
                    fuxictr = result
                table.append(row(name, target, result, fuxictr))
                print(log, json.dumps(table[-1]), json.dumps(result["points"]), file=sys.stderr)
            size = f", {rows:,} training rows" if log == "planted" else ""
            note = (
                f"`python benchmarks/time_to_quality.py --log '{log}'`: to a test AUC of {target:.4f}{size}, seed {seed}, "
                f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads. {machine()}."
            )
            picture = f"\n\n![AUC against seconds]({plot(log, target, curves)})" if into_results else ""
            report(f"Time to quality, {log}", note, markdown_table(table) + picture, into_results)
    if first_batch:
        note = f"`python benchmarks/time_to_quality.py --first-batch`: `keras-dlrm train --data LOG`, medians of {rounds}."
        note += f" {machine()}."
        report("First trained batch", note, markdown_table(first), into_results)


if __name__ == "__main__":
    main()
