"""Models on a planted log with products of three columns: how far below the best possible AUC each ends, by epoch.

    python benchmarks/third_order.py --write

Three sparse columns of 20 ids; half of the logit's variance is one product of all three, which no sum of pairs has.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import click  # noqa: E402
import keras  # noqa: E402
from results import machine, markdown_table, report, write_option  # noqa: E402

import keras_dlrm as kd  # noqa: E402
from keras_dlrm.metrics import auc  # noqa: E402

PLOT = Path(__file__).parents[1] / "docs" / "third_order.png"
WUKONG = {"wukong_layers": 2, "fm_vectors": 8, "linear_vectors": 8, "rank": 8, "block_mlp": [64], "deep_mlp": [64, 32]}
COMMON: dict[str, Any] = {"embedding_dim": 16, "init_scale": 0.1, "first_order": True}
MODELS: dict[str, tuple[type, dict[str, Any]]] = {
    "FM": (kd.models.FM, {}),
    "DLRM, dot products": (kd.models.DLRM, {"top_mlp": [64, 32, 1]}),
    "Wukong, two layers": (kd.models.Wukong, WUKONG),
}
BATCH, RATE = 1024, 0.01


def gaps(kind: type, options: dict[str, Any], rows: int, test_rows: int, epochs: int) -> list[float]:
    """AUC below the best possible one on the test rows, after each epoch."""
    schema = kd.Schema(categorical=[kd.Categorical(f"C{i}", 20) for i in range(1, 4)], label="click")
    log = kd.data.synthetic.PlantedClickLog(schema, seed=0, order=3, zipf=0.5)
    batch, labels = next(log.batches(rows, n_batches=1))
    test, clicks = next(log.batches(test_rows, n_batches=1, part="test"))
    best = auc(clicks, log.probabilities(test))
    model = kind(schema, seed=0, **COMMON, **options)
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-rows // BATCH))
    model.compile(keras.optimizers.Adam(rate), embedding_optimizer=kd.optimizers.Adam(rate))
    below = []
    for _ in range(epochs):
        model.fit(batch, labels, batch_size=BATCH, verbose=0)
        below.append(best - auc(clicks, model.predict(test, batch_size=8192, verbose=0)[:, 0]))
    return below


def plot(below: dict[str, list[float]]) -> None:
    """The gaps by epoch."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    for name, values in below.items():
        axes.semilogy(range(1, len(values) + 1), values, marker="o", markersize=3, label=name)
    axes.axhline(0.003, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="epoch", ylabel="test AUC below the best possible")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(PLOT, dpi=120)


@click.command()
@click.option("--rows", default=1_500_000, show_default=True, help="Training rows.")
@click.option("--test-rows", default=200_000, show_default=True)
@click.option("--epochs", default=6, show_default=True)
@write_option
def main(rows: int, test_rows: int, epochs: int, into_results: bool) -> None:
    """Train each model and print how far it ends below the best possible AUC."""
    below = {}
    for name, (kind, options) in MODELS.items():
        below[name] = gaps(kind, options, rows, test_rows, epochs)
        click.echo(f"{name}: {', '.join(f'{value:.4f}' for value in below[name])}")
    if into_results:
        plot(below)
    table = markdown_table([{"model": name, "below the best possible AUC": f"{values[-1]:.4f}"} for name, values in below.items()])
    note = f"{machine()}, {rows:,} training rows, {epochs} epochs, {test_rows:,} test rows."
    report("Products of three columns", note, table, into_results)


if __name__ == "__main__":
    main()
