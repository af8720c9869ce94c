"""Results without any flags: DLRM and DCNv2 beside a logistic regression and LightGBM on public click logs.

The data are not ours to ship: point `--source` at a folder with your copies, and `--log` at logs of your own.

    python benchmarks/defaults.py --source data --peers-python baselines/bin/python --write
    python benchmarks/defaults.py --log mine=folder-with-train-valid-test-parquet --label click

Each log goes through the four commands of the README: `schema`, `preprocess tables`, `train` with no flag but the seed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import polars as pl
import prepare
from contest import has_peer
from results import machine, markdown_table, measured, report, write_option

import keras_dlrm as kd

PEER = Path(__file__).parent / "peers" / "baselines.py"
LOGS = {
    "adult": ("adult", prepare.adult), "frappe": ("frappe_x1", prepare.frappe), "ml-1m": ("ml-1m", prepare.ml_1m),
    "criteo 10k": ("criteo", prepare.criteo_10k), "criteo 20k": ("criteo", prepare.criteo),
}  # fmt: skip
PARTS = ("train", "valid", "test")
# How far from the better baseline a model may be: AUC below, log loss above, and clicks expected from clicks seen.
AUC, LOGLOSS, CALIBRATION = 0.001, 0.002, 0.03


def command(*arguments: Any) -> list[str]:
    """A command line of `keras-dlrm`."""
    return [sys.executable, "-m", "keras_dlrm.cli", *map(str, arguments)]


def prepared(folder: Path, label: str) -> kd.Schema:
    """Infer a schema and preprocess, as a user would; what was inferred."""
    schema = folder / "log.yaml"
    parts = {part: folder / f"{part}.parquet" for part in PARTS}
    subprocess.run(command("schema", parts["train"], "--label", label, "--output", schema, "--overwrite"), check=True)
    files = [argument for part, path in parts.items() for argument in (f"--{part}", path)]
    where = ["--output", folder / "log", "--overwrite"]
    subprocess.run(command("preprocess", "tables", "--schema", schema, *files, *where), check=True)
    return kd.Schema.load(schema)


def trained(folder: Path, model: str, seeds: int, backend: str) -> dict[str, Any]:
    """Mean test scores of a model over seeds."""
    runs = []
    for seed in range(seeds):
        where = ["--output", folder / f"{model}-{seed}", "--overwrite"]
        line = command("train", "--data", folder / "log", "--model", model, "--seed", seed, *where, "--json")
        runs.append(measured(line, KERAS_BACKEND=backend))
    row: dict[str, Any] = {"name": model, "seconds": statistics.mean(run["seconds"] for run in runs)}
    for score in ("auc", "logloss", "calibration"):
        values = [run["test"][score] for run in runs]
        row[score] = statistics.mean(values)
        row[f"sd {score}"] = statistics.stdev(values) if seeds > 1 else 0.0
    return row


def baselines(python: str, folder: Path, schema: kd.Schema) -> list[dict[str, Any]]:
    """Test scores of the peers on the columns of a schema."""
    columns = {"dense": schema.dense_names, "categorical": [c.name for c in schema.categorical], "label": schema.label}
    done = subprocess.run([python, PEER, folder, json.dumps(columns)], stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]  # LightGBM warns on the same stream


def verdict(row: dict[str, Any], peers: list[dict[str, Any]]) -> str:
    """Whether a model is as good as the better baseline, or by how much it is not."""
    auc = row["auc"] - max(peer["auc"] for peer in peers)
    logloss = row["logloss"] - min(peer["logloss"] for peer in peers)
    off = row["calibration"] - 1
    faults = [
        f"AUC {auc:+.4f}" if auc < -AUC else "",
        f"log loss {logloss:+.4f}" if logloss > LOGLOSS else "",
        f"calibration {off:+.1%}" if abs(off) > CALIBRATION else "",
    ]
    return ", ".join(filter(None, faults)) or "yes"


def line(log: str, rows: int, row: dict[str, Any], holds: str) -> dict[str, str]:
    """A line of the table."""
    spread = f" ± {row['sd auc']:.4f}" if row.get("sd auc") else ""
    return {
        "log": log, "train rows": f"{rows:,}", "model": row["name"], "test AUC": f"{row['auc']:.4f}{spread}",
        "log loss": f"{row['logloss']:.4f}", "calibration": f"{row['calibration']:.3f}", "seconds": f"{row['seconds']:.0f}",
        "as good as the better baseline": holds,
    }  # fmt: skip


def public(source: Path, names: Sequence[str], work: Path) -> dict[str, tuple[Path, str]]:
    """Public logs as Parquet: name → folder and label."""
    folders = {}
    for name in names:
        where, read = LOGS[name]
        schema, frames = read(source / where)
        folders[name] = work / name.replace(" ", "-"), schema.label
        folders[name][0].mkdir(parents=True, exist_ok=True)
        for part, frame in frames.items():
            frame.write_parquet(folders[name][0] / f"{part}.parquet")
    return folders


@click.command()
@click.option("--source", type=click.Path(path_type=Path, exists=True), help="Folder with the folders of the public logs.")
@click.option("--only", multiple=True, type=click.Choice(list(LOGS)), help="Only this public log; may be repeated.")
@click.option("--log", "own", multiple=True, metavar="NAME=FOLDER", help="Folder with train, valid and test.parquet.")
@click.option("--label", default="label", show_default=True, help="Label of --log.")
@click.option("--model", "models", multiple=True, default=["DLRM", "DCNv2"], show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--backend", default="torch", show_default=True)
@click.option("--peers-python", default=sys.executable, help="Interpreter with peers/requirements-baselines.txt.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder to work in; a temporary one by default.")
@write_option
def main(
    source: Path | None, only: tuple[str, ...], own: tuple[str, ...], label: str, models: tuple[str, ...], seeds: int, backend: str,
    peers_python: str, work: Path | None, into_results: bool,
) -> None:  # fmt: skip
    """Train with no flags and compare with the baselines."""
    has_peers = has_peer(peers_python, "lightgbm", "requirements-baselines.txt")
    table = []
    with tempfile.TemporaryDirectory() as temporary:
        folders = {} if source is None else public(source, only or tuple(LOGS), work or Path(temporary))
        folders |= {name: (Path(path), label) for name, _, path in (each.partition("=") for each in own)}
        for name, (folder, target) in folders.items():
            schema = prepared(folder, target)
            rows = pl.scan_parquet(folder / "train.parquet").select(pl.len()).collect().item()
            peers = baselines(peers_python, folder, schema) if has_peers else []
            table += [line(name, rows, row, "") for row in peers]
            for model in models:
                row = trained(folder, model, seeds, backend)
                table.append(line(name, rows, row, verdict(row, peers) if peers else ""))
            print(*table[-len(models) - len(peers) :], sep="\n", file=sys.stderr)
    command_line = "python benchmarks/defaults.py --source data --peers-python baselines/bin/python"
    note = (
        f"`{command_line}`, {seeds} seeds, {backend}. The schema is inferred, no flag is given. As good: AUC at most {AUC} below "
        f"the better baseline, log loss at most {LOGLOSS} above, and calibration (mean prediction by click rate) within "
        f"{CALIBRATION:.0%}. {machine()}"
    )
    report("No flags, beside a logistic regression and LightGBM", note, markdown_table(table), into_results)


if __name__ == "__main__":
    main()
