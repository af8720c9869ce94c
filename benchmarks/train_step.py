"""A training step at Criteo Kaggle's shape, through `model.fit` with its input pipeline, beside its peers.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --backend jax --dtype float32 --dtype bfloat16 --peer none
    python benchmarks/train_step.py --batch 8192 --dtype bfloat16 --peers-python peers/bin/python --write
    python benchmarks/train_step.py --model DLRM --model WideDeep --model DeepFM --peer torch
    python benchmarks/train_step.py --backend tensorflow --keras-peers-python keras-peers/bin/python

All contestants run in processes of their own and take turns. The floor is what the matrix products of a step alone take.
All hold their tables at once: at Kaggle's shape 15 GB with TensorFlow and all peers, and 3 GB for each other backend.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

import click
from contest import Contestant, Times, contest, has_peer
from results import backends_option, machine, markdown_table, report, write_option
from workload import SHAPES, write

PEERS = Path(__file__).parent / "peers"


def contestants(
    folder: Path, batch: int, dtype: str, rule: str, backends: tuple[str, ...], models: tuple[str, ...], peers: tuple[str, ...],
    torchrec_python: str, keras_python: str,
) -> list[Contestant]:  # fmt: skip
    """Ours on each backend, then the peers that are there, then the floor."""
    common = [str(folder), "--batch", str(batch), "--dtype", dtype]
    found = []
    for backend, model in itertools.product(backends, models):
        command = [sys.executable, str(PEERS / "ours.py"), *common, "--backend", backend, "--rule", rule, "--model", model]
        found.append(Contestant(f"{'keras_dlrm' if model == 'DLRM' else model}, {backend}, {rule}", command))
    if "torch" in peers:
        found.append(Contestant("PyTorch EmbeddingBag, SGD", [sys.executable, str(PEERS / "torch_reference.py"), *common]))
    if "torchrec" in peers and has_peer(torchrec_python, "torchrec", "requirements-torchrec.txt"):
        command = [torchrec_python, str(PEERS / "torchrec_fbgemm.py"), *common]
        found.append(Contestant("TorchRec/FBGEMM, row-wise Adagrad", command))
    if "tfrs" in peers and has_peer(keras_python, "tensorflow_recommenders", "requirements-keras.txt"):
        # It has no row-wise Adagrad.
        theirs = rule.removeprefix("rowwise_")
        command = [keras_python, str(PEERS / "tfrs_ranking.py"), *common, "--rule", theirs]
        found.append(Contestant(f"TFRS Ranking, {theirs}", command))
    found.append(Contestant("matrix products alone", [sys.executable, str(PEERS / "floor.py"), *common]))
    return found


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="kaggle", show_default=True)
@click.option("--batch", default=2048, show_default=True)
@click.option("--dtype", "dtypes", type=click.Choice(["float32", "bfloat16"]), multiple=True, default=["float32"])
@click.option("--rule", default="rowwise_adagrad", show_default=True)
@backends_option
@click.option("--model", "models", multiple=True, default=["DLRM"], show_default=True, help="With the shape's top MLP.")
@click.option("--peer", "peers", multiple=True, default=["torch", "torchrec", "tfrs"], show_default=True)
@click.option("--peers-python", default=sys.executable, help="Interpreter with peers/requirements-torchrec.txt.")
@click.option("--keras-peers-python", default=sys.executable, help="Interpreter with peers/requirements-keras.txt.")
@click.option("--distribution", type=click.Choice(["zipf", "uniform"]), default="zipf", show_default=True)
@click.option("--steps", default=100, show_default=True, help="Steps of a round.")
@click.option("--rounds", default=7, show_default=True)
@write_option
def main(
    shape: str, batch: int, dtypes: tuple[str, ...], rule: str, backends: tuple[str, ...], models: tuple[str, ...],
    peers: tuple[str, ...], peers_python: str, keras_peers_python: str, distribution: str, steps: int, rounds: int,
    into_results: bool,
) -> None:  # fmt: skip
    """Run the contest and print medians and ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, SHAPES[shape], batch * steps, distribution)
        groups = [
            contestants(folder, batch, dtype, rule, backends, models, peers, peers_python, keras_peers_python) for dtype in dtypes
        ]
        times = contest([entrant for group in groups for entrant in group], rounds)
    of_models = "" if models == ("DLRM",) else " of models"
    title = f"Training step{of_models}, {shape}, batch {batch}, {' and '.join(dtypes)}, {distribution} ids"
    report(title, f"{machine()}, medians of {rounds} rounds of {steps} steps.", table(times, batch, dtypes), into_results)


def table(times: list[Times], batch: int, dtypes: tuple[str, ...]) -> str:
    """Medians, rates, and how many times as fast our first row is. The last row of each dtype is its floor."""
    ours, each = times[0], len(times) // len(dtypes)
    rows = [
        {"program": t.name if len(dtypes) == 1 else f"{t.name}, {dtypes[i // each]}",
         "ms a step": f"{t.median:.1f}", "samples/s": f"{1000 * batch / t.median:,.0f}",
         "share of the floor": f"{t.times_faster_than(times[i // each * each + each - 1]):.0%}",
         f"{ours.name.split(', ')[1]} is": f"{ours.times_faster_than(t):.2f}×"}
        for i, t in enumerate(times)
    ]  # fmt: skip
    return markdown_table(rows)


if __name__ == "__main__":
    main()
