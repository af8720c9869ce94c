"""Several labels in one model against a model for each: income and marriage of UCI Adult, over seeds.

The data are not ours to ship: point `--source` at your copy.

    python benchmarks/several_labels.py --source data/adult --work adult-labels --write
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import prepare
from results import machine, markdown_table, report, write_option

import keras_dlrm as kd
from keras_dlrm.data import tables
from keras_dlrm.metrics import paired_bootstrap_runs, scores
from keras_dlrm.training.callbacks import BestModel, predictions
from keras_dlrm.training.experiment import Experiment

LABELS = ("income", "married")
SINGLE = "a model for each label"
TOWERS = {"towers": [16]}
HEADS: dict[str, Any] = {
    "one unit for each label": None,
    "shared bottom, towers": kd.tasks.SharedBottom(**TOWERS),
    "MMoE": kd.tasks.MMoE(experts=4, expert_mlp=[32], **TOWERS),
    "PLE": kd.tasks.PLE(experts=2, shared_experts=2, expert_mlp=[32], **TOWERS),
}
EXPERIMENT = Experiment(
    model={"type": "DLRM", "embedding_dim": 8, "bottom_mlp": [32, 8], "top_mlp": [64, 1], "interaction": "cat_dot",
           "dropout": 0.2, "init_scale": 0.01, "first_order": True},
    optimizer={"name": "adam", "learning_rate": 0.002}, embedding_optimizer={"name": "adam", "learning_rate": 0.002, "l2": 0.002},
    batch_size=512, monitor="both", patience=2,
)  # fmt: skip


def log_of(source: Path, work: Path) -> Any:
    """Adult with two labels; the columns that say who is married are left out."""
    schema, parts = prepare.adult(source)
    known = [column for column in schema.categorical if column.name not in ("marital_status", "relationship")]
    married = pl.col("marital_status").str.starts_with("Married").cast(pl.Int8).alias("married")
    parts = {name: frame.with_columns(married) for name, frame in parts.items()}
    both = kd.Schema(schema.dense, known, LABELS)
    return tables.preprocess(both, parts["train"], parts["valid"], parts["test"], output=work / "log", reuse=True)


def trained(log: Any, head: Any, seed: int, work: Path, epochs: int) -> np.ndarray:
    """Predictions for the test part of the model that is best on the validation part, (N,) or (N, T)."""
    import keras

    experiment = EXPERIMENT if head is None else EXPERIMENT.override({"model.tasks": head.config()})
    keras.utils.set_random_seed(seed)
    model, path = experiment.build(log.schema, seed), work / "best.keras"
    best = BestModel(log.split("valid"), path, 4096, experiment.monitor, experiment.patience, 1.0)
    dataset = log.split("train").dataset(experiment.batch_size, shuffle=True, seed=seed)
    model.fit(dataset, epochs=epochs, callbacks=[best], verbose=0)
    return predictions(keras.saving.load_model(path), log.split("test"), 4096)


def rows_of(label: str, part: Any, runs: dict[str, list[np.ndarray]], samples: int) -> list[dict[str, str]]:
    """A row for each way: mean scores over seeds, and the difference to a model of the label alone with its 95% interval."""
    rows = []
    for name, each in runs.items():
        of = [scores(part.labels, p) for p in each]
        row = {"label": label, "model": name}
        for score, title in (("auc", "AUC"), ("logloss", "log loss")):
            values = [one[score] for one in of]
            row[title] = f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
        row |= {"AUC less that of its own model": "", "more than noise": ""}
        if name != SINGLE:
            mean, low, high, _ = paired_bootstrap_runs(part.labels, each, runs[SINGLE], samples)["auc"]
            row["AUC less that of its own model"] = f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
            row["more than noise"] = "yes" if low > 0 or high < 0 else "no"
        rows.append(row)
    return rows


@click.command()
@click.option("--source", type=click.Path(path_type=Path), required=True, help="Folder with adult.data.gz and adult.test.gz.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the processed log and of models.")
@click.option("--seeds", type=click.IntRange(2), default=5)
@click.option("--epochs", type=click.IntRange(1), default=12, help="At most; a run ends when the validation part stops improving.")
@click.option("--samples", type=click.IntRange(1), default=300, help="Bootstrap resamples.")
@write_option
def main(source: Path, work: Path, seeds: int, epochs: int, samples: int, into_results: bool) -> None:
    """Train all ways with each seed, and print a table."""
    log = log_of(source, work)
    runs: dict[str, dict[str, list[np.ndarray]]] = {label: {SINGLE: []} for label in LABELS}
    for label in LABELS:
        runs[label][SINGLE] = [trained(log.of_label(label), None, seed, work, epochs) for seed in range(seeds)]
    for name, head in HEADS.items():
        together = [trained(log, head, seed, work, epochs) for seed in range(seeds)]
        for i, label in enumerate(LABELS):
            runs[label][name] = [p[:, i] for p in together]
        click.echo(f"{name}: done", err=True)
    rows = [row for label in LABELS for row in rows_of(label, log.of_label(label).split("test"), runs[label], samples)]
    note = (
        f"UCI Adult, an income above $50,000 and being married (without the columns `marital_status` and `relationship`), {seeds} "
        f"seeds, DLRM, at most {epochs} epochs. `python benchmarks/several_labels.py` with a copy of your own. Intervals: paired "
        "bootstrap over test rows "
        f"and seeds, 95%.\n\nMachine: {machine()}."
    )
    report("Several labels", note, markdown_table(rows), into_results)


if __name__ == "__main__":
    main()
