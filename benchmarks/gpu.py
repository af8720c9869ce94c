"""A training step on a GPU: ours on JAX and torch beside PyTorch's EmbeddingBag, and what the GPU would allow.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --dtype bfloat16 --rule rowwise_adagrad --backend jax --write
    python benchmarks/gpu.py --allow-cpu --scale 1e-5 --dim 16 --batch 256 --steps 3 --rounds 2

The model is MLPerf's DLRM on the Criteo Terabyte log; its tables are scaled down until those of all contestants fit the
memory of the GPU together. Contestants take turns (`contest.py`), input pipeline included. Shares compare with limits
measured on that GPU (`limits.py`), by the operations and bytes that the step needs (`counting.py`).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from contest import Contestant, Times, contest
from counting import RULES, Count, stages
from results import machine, markdown_table, report, write_option
from workload import Shape, read, write

HERE = Path(__file__).parent
# Each process takes what it needs, not most of the memory as JAX and TensorFlow do by default.
ENV = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true", "TF_CPP_MIN_LOG_LEVEL": "3"}
PEER = "PyTorch EmbeddingBag(sparse=True), sgd"


class NoGPU(click.ClickException):
    """There is nothing to measure."""

    exit_code = 2


def limits(backend: str, dtype: str, only_device: bool = False) -> dict[str, Any]:
    """Limits that `limits.py` prints for a backend, or no GPU where the backend is not installed."""
    command = [sys.executable, str(HERE / "limits.py"), "--dtype", dtype, *(["--only-device"] if only_device else [])]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **ENV, "KERAS_BACKEND": backend}, check=False
    )
    if done.returncode and "ModuleNotFoundError" in done.stderr:
        return {"gpu": None, "memory": 0}
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} on {backend} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def needed(shape: Shape, batch: int, rule: str) -> float:
    """Bytes of memory that one contestant takes: tables, slots, and the batch's activations with their gradients."""
    per_element, per_row, _, _ = RULES[rule]
    slots = shape.table_bytes * per_element + 4 * sum(shape.rows) * per_row
    vectors = (len(shape.rows) + 1) * shape.dim + sum(shape.bottom) + sum(shape.top) + shape.top_inputs
    # Activations, gradients and what gathers, casts and concatenations hold besides: six times the activations.
    return shape.table_bytes + slots + 6 * 4 * batch * vectors


def fitting(rows: tuple[int, ...], dim: int, batch: int, rule: str, memory: float, scale: float | None) -> Shape:
    """MLPerf's model with tables scaled to `scale`, or as far down as `memory` bytes ask for.

    Raises:
        click.UsageError: not even the smallest fits.
    """

    def at(scale: float) -> Shape:
        scaled = tuple(min(n, max(3, round(n * scale))) for n in rows)
        return Shape(scaled, dim, 13, (512, 256, dim), (1024, 1024, 512, 256, 1))

    # 1, 0.9, …, 0.1, 0.09, …
    for step in [scale] if scale else [digit * 10.0**-power for power in range(1, 7) for digit in range(10, 0, -1)]:
        if not memory or needed(at(step), batch, rule) <= memory:
            return at(step)
    raise click.UsageError(
        f"a contestant needs {needed(at(step), batch, rule) / 1e9:.1f} GB and has {memory / 1e9:.1f} GB of the GPU; "
        "give a smaller --batch, --dim or --scale."
    )


def contestants(
    folder: Path, batch: int, dtype: str, rule: str, backends: list[str], peer: bool, device: str
) -> list[Contestant]:
    """Ours on each backend, then the reference's way."""
    common = [str(folder), "--batch", str(batch), "--dtype", dtype]
    ours, reference = str(HERE / "peers" / "ours.py"), str(HERE / "peers" / "torch_reference.py")
    options = {backend: [sys.executable, ours, *common, "--backend", backend, "--rule", rule] for backend in backends}
    found = [Contestant(f"keras_dlrm, {backend}, {rule}", command, ENV) for backend, command in options.items()]
    return found + ([Contestant(PEER, [sys.executable, reference, *common, "--device", device], ENV)] if peer else [])


def table(times: list[Times], batch: int, counts: dict[str, Count], found: dict[str, dict[str, Any]]) -> str:
    """Medians, rates, shares of the limits (`found`, by backend), and how many times as fast our first row is.

    `counts` are those of a whole step, by rule.
    """
    rows = []
    for t in times:
        backend, rule = ("torch", "sgd") if t.name == PEER else t.name.split(", ")[1:]
        count, limit, seconds = counts[rule], found[backend], t.median / 1e3
        rows.append(
            {"program": t.name, "ms a step": f"{t.median:.2f}", "samples/s": f"{batch / seconds:,.0f}",
             "GB/s": f"{count.bytes / seconds / 1e9:,.1f}",
             "share of bandwidth": f"{count.bytes / seconds / limit['bytes/s']:.1%}",
             "TFLOP/s": f"{count.flops / seconds / 1e12:,.2f}",
             "share of products": f"{count.flops / seconds / limit['FLOP/s']:.1%}",
             "least ms": f"{1e3 * count.seconds(limit['bytes/s'], limit['FLOP/s']):.2f}",
             f"{times[0].name.split(', ')[1]} is": f"{times[0].times_faster_than(t):.2f}×"}
        )  # fmt: skip
    return markdown_table(rows)


def unique_rows(ids: np.ndarray, batch: int) -> float:
    """Different rows that a batch looks up, on average over at most three batches."""
    first = [ids[i : i + batch] for i in range(0, min(3 * batch, len(ids)), batch)]
    return statistics.mean(sum(len(np.unique(column)) for column in np.asarray(part).T) for part in first)


@click.command()
@click.option("--batch", type=click.IntRange(1), default=65_536, show_default=True)
@click.option("--dim", type=click.IntRange(1), default=128, show_default=True, help="Width of the tables.")
@click.option("--scale", type=click.FloatRange(0, 1, min_open=True), help="Factor on the rows, instead of what fits.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--rule", type=click.Choice(list(RULES)), default="sgd", show_default=True, help="Of our tables.")
@click.option(
    "--backend", "backends", type=click.Choice(["jax", "torch"]), multiple=True, default=["jax", "torch"],
    show_default=True,
)  # fmt: skip
@click.option("--peer/--no-peer", default=True, show_default=True, help="PyTorch's EmbeddingBag.")
@click.option("--distribution", type=click.Choice(["zipf", "uniform"]), default="zipf", show_default=True)
@click.option("--steps", type=click.IntRange(1), default=30, show_default=True, help="Steps of a round.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--allow-cpu", is_flag=True, help="Run without a GPU, to try the script out; give a small --scale.")
@write_option
def main(
    batch: int, dim: int, scale: float | None, dtype: str, rule: str, backends: tuple[str, ...], peer: bool,
    distribution: str, steps: int, rounds: int, allow_cpu: bool, into_results: bool,
) -> None:  # fmt: skip
    """Run the contest and print rates and shares of the GPU's limits."""
    asked = list(dict.fromkeys([*backends, *(["torch"] if peer else [])]))
    devices = {backend: limits(backend, dtype, only_device=True) for backend in asked}
    seeing = [backend for backend in asked if devices[backend]["gpu"]]
    if not seeing and not allow_cpu:
        raise NoGPU(
            f"no GPU is seen by {' or '.join(asked)}: run this where there is one with a CUDA build of them, or try it out on "
            "the processor with --allow-cpu and a small shape (--scale 1e-5 --dim 16 --batch 256)."
        )
    if seeing:
        for backend in set(asked) - set(seeing):
            click.echo(f"{backend} sees no GPU and is left out", err=True)
    entrants = [backend for backend in backends if not seeing or backend in seeing]
    peer = peer and (not seeing or "torch" in seeing)
    # A tenth is left free; a process may get less than its share, as JAX does of all that is free.
    memory = 0.9 * min((devices[backend]["memory"] for backend in seeing), default=0) / (len(entrants) + peer)
    if scale is None and not memory:
        raise click.UsageError("--scale is missing: there is no GPU, or it does not tell the size of its memory.")

    os.environ.setdefault("KERAS_BACKEND", asked[0])  # TensorFlow need not be there
    from keras_dlrm.models.presets import PRESETS

    shape = fitting(PRESETS["mlperf_v1"].rows, dim, batch, rule, memory, scale)
    name = devices[seeing[0]]["gpu"] if seeing else "no GPU, on the processor"
    click.echo(f"{name}: {sum(shape.rows):,} rows × {dim}, {shape.table_bytes / 1e9:.2f} GB of tables each", err=True)
    found = {backend: limits(backend, dtype) for backend in dict.fromkeys([*entrants, *(["torch"] if peer else [])])}
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        write(folder, shape, batch * steps, distribution)
        unique = unique_rows(read(folder)[2], batch)
        device = "cuda" if seeing else "cpu"
        times = contest(contestants(folder, batch, dtype, rule, entrants, peer, device), rounds)
    counts = {each: sum(stages(shape, batch, unique, dtype, each).values(), Count()) for each in (rule, "sgd")}
    measured = "; ".join(
        f"{backend} {each['bytes/s'] / 1e9:,.0f} GB/s and {each['FLOP/s'] / 1e12:,.1f} TFLOP/s" for backend, each in found.items()
    )
    note = (
        f"{name}. {machine()}, medians of {rounds} rounds of {steps} steps. {sum(shape.rows):,} rows × {dim} in "
        f"{len(shape.rows)} tables, {unique:,.0f} different ones in a batch. Limits measured: {measured}."
    )
    report(f"GPU, batch {batch}, {dtype}, {distribution} ids", note, table(times, batch, counts, found), into_results)


if __name__ == "__main__":
    main()
