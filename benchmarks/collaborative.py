"""Matrix factorization, SVD++ and NeuMF on ML-1M: ranks of held-out films, and errors of predicted ratings.

    python benchmarks/collaborative.py ranks --source data/ml-1m --test data/ncf-ml-1m --seeds 3 --write
    python benchmarks/collaborative.py ratings --source data/ml-1m --seeds 3 --write

`ranks` is the protocol of He et al. 2017: each user's last film among the 99 others that were published with it; training rows
are all other ratings, and negatives drawn anew for each epoch. `ratings` predicts a random tenth of the ratings; the implicit
column of SVD++ holds up to 30 films that the user has rated among the training rows.
"""

from __future__ import annotations

import gzip
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import click  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from results import machine, markdown_table, report, write_option  # noqa: E402

import keras_dlrm as kd  # noqa: E402
from keras_dlrm.metrics import ranking_scores  # noqa: E402

BATCH = 8192
HISTORY = 30
# Model, arguments, negatives for each positive, epochs, rate, L2 of the rows.
RANKED: tuple[tuple[str, dict[str, Any], int, int, float, float], ...] = (
    ("MatrixFactorization", {"embedding_dim": 192, "init_scale": 0.1}, 8, 16, 0.002, 1e-6),
    ("NeuMF", {"embedding_dim": 96, "product_dim": 64, "deep_mlp": [64, 32, 16], "init_scale": 0.1}, 4, 12, 0.002, 1e-6),
)


def ratings_of(source: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users and items by number from 0, in the order of their first appearance, and ratings."""
    frame = pl.read_parquet(source / "ratings.parquet")
    items = frame["item_id"].to_numpy()
    _, first, numbers = np.unique(items, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))
    return frame["user_id"].to_numpy() - 1, place[numbers], frame["rating"].to_numpy().astype(np.float32)


def lists_of(folder: Path) -> np.ndarray:
    """Items of each user's list, int (users, 100): the held-out one, then the published negatives."""
    held_out = np.loadtxt(folder / "ml-1m.test.rating", dtype=np.int64)[:, 1]
    lines = gzip.decompress((folder / "ml-1m.test.negative.gz").read_bytes()).decode().splitlines()
    return np.column_stack([held_out, np.array([line.split("\t")[1:] for line in lines], np.int64)])


def compiled(model: Any, rate: float, steps: int, l2: float, loss: str) -> Any:
    """The model with Adam, whose rate falls to nothing over the steps."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(schedule), loss, embedding_optimizer=kd.optimizers.Adam(schedule, l2=l2))
    return model


def ranked(kind: str, options: dict[str, Any], negatives: int, epochs: int, rate: float, l2: float, seed: int,
           users: np.ndarray, items: np.ndarray, lists: np.ndarray) -> dict[str, float]:  # fmt: skip
    """HR@10 and NDCG@10 of a model that was trained on the pairs."""
    columns = [kd.Categorical("user", len(lists)), kd.Categorical("item", int(items.max()) + 1)]
    model = getattr(kd.models, kind)(kd.Schema(categorical=columns, label="seen"), seed=seed, **options)
    rows = len(users) * (1 + negatives)
    compiled(model, rate, epochs * -(-rows // BATCH), l2, "binary_crossentropy")
    rng, labels = np.random.default_rng(seed), np.zeros(rows, np.float32)
    labels[: len(users)] = 1
    for _ in range(epochs):
        drawn = rng.integers(0, columns[1].vocabulary_size, negatives * len(users))
        pairs = np.column_stack([np.tile(users, 1 + negatives), np.concatenate([items, drawn])]).astype(np.int32)
        model.fit({"sparse": pairs}, labels, batch_size=BATCH, verbose=0)  # shuffles
    asked = np.column_stack([np.repeat(np.arange(len(lists)), lists.shape[1]), lists.reshape(-1)]).astype(np.int32)
    scores = model.predict({"sparse": asked}, batch_size=65536, verbose=0).reshape(lists.shape)
    scores_at_10 = ranking_scores(np.arange(lists.shape[1])[None] == np.zeros((len(lists), 1)), scores, k=10)
    return {"HR@10": scores_at_10["recall"], "NDCG@10": scores_at_10["ndcg"]}


def rated(implicit: bool, dim: int, epochs: int, rate: float, l2: float, seed: int,
          users: np.ndarray, items: np.ndarray, ratings: np.ndarray) -> dict[str, float]:  # fmt: skip
    """Root mean squared error of predicted ratings, 1 to 5, on a random tenth."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(users))
    test, train = np.split(order, [len(order) // 10])
    columns = [kd.Categorical("user", int(users.max()) + 1), kd.Categorical("item", int(items.max()) + 1)]
    sparse = np.column_stack([users, items]).astype(np.int32)
    if implicit:
        columns.append(kd.Categorical("rated", columns[1].vocabulary_size, hotness=HISTORY, combiner="sqrtn"))
        history = np.full((columns[0].vocabulary_size, HISTORY), -1, np.int32)
        for user, rows in pl.DataFrame({"user": users[train], "item": items[train]}).group_by("user"):
            seen = rng.permutation(rows["item"].to_numpy())[:HISTORY]
            history[user[0], : len(seen)] = seen
        # Without the row's own film, which is not there when a rating is predicted.
        others = np.where(history[users] == items[:, None], -1, history[users])
        sparse = np.concatenate([sparse, others], axis=1)
    options = {"implicit": "rated" if implicit else None, "init_scale": 0.01, "seed": seed}
    model = kd.models.MatrixFactorization(kd.Schema(categorical=columns, label="rating"), dim, **options)
    compiled(model, rate, epochs * -(-len(train) // BATCH), l2, "mse")
    target = (ratings - 1) / 4
    model.fit({"sparse": sparse[train]}, target[train], batch_size=BATCH, epochs=epochs, verbose=0)
    predicted = 1 + 4 * model.predict({"sparse": sparse[test]}, batch_size=65536, verbose=0)[:, 0]
    return {"RMSE": float(np.sqrt(np.mean((predicted - ratings[test]) ** 2)))}


def line(name: str, runs: list[dict[str, float]], seconds: float) -> dict[str, str]:
    """Means and standard deviations over the runs."""
    row = {"model": name}
    for score in runs[0]:
        values = [run[score] for run in runs]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        row[score] = f"{statistics.mean(values):.4f}{spread}"
    return {**row, "seconds a run": f"{seconds / len(runs):.0f}"}


@click.group()
def main() -> None:
    """Models of users and items alone."""


@main.command()
@click.option("--source", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of ML-1M.")
@click.option("--test", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of the published lists.")
@click.option("--model", "models", multiple=True, default=[kind for kind, *_ in RANKED], show_default=True)
@click.option("--seeds", default=3, show_default=True)
@write_option
def ranks(source: Path, test: Path, models: tuple[str, ...], seeds: int, into_results: bool) -> None:
    """HR@10 and NDCG@10 of each user's last film."""
    users, items, _ = ratings_of(source)
    lists = lists_of(test)
    seen = items != lists[users, 0]  # all but the last film
    table = []
    for kind, options, negatives, epochs, rate, l2 in RANKED:
        if kind in models:
            start = time.monotonic()
            runs = [
                ranked(kind, options, negatives, epochs, rate, l2, seed, users[seen], items[seen], lists) for seed in range(seeds)
            ]
            table.append(line(kind, runs, time.monotonic() - start))
            click.echo(table[-1])
    report("Ranks of held-out films, ML-1M", f"{machine()}, {seeds} seeds.", markdown_table(table), into_results)


@main.command()
@click.option("--source", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of ML-1M.")
@click.option("--dim", default=32, show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--rate", default=0.003, show_default=True)
@click.option("--l2", default=1e-6, show_default=True, help="Of the rows.")
@click.option("--seeds", default=3, show_default=True)
@write_option
def ratings(source: Path, dim: int, epochs: int, rate: float, l2: float, seeds: int, into_results: bool) -> None:
    """Root mean squared errors with the same budget."""
    data = ratings_of(source)
    table = []
    for name, implicit in (("MatrixFactorization", False), ("SVD++", True)):
        start = time.monotonic()
        runs = [rated(implicit, dim, epochs, rate, l2, seed, *data) for seed in range(seeds)]
        table.append(line(name, runs, time.monotonic() - start))
        click.echo(table[-1])
    report("Errors of predicted ratings, ML-1M", f"{machine()}, {seeds} seeds.", markdown_table(table), into_results)


if __name__ == "__main__":
    main()
