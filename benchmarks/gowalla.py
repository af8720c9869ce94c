"""A two-tower model on Gowalla: Recall@20 and NDCG@20 among all 40,981 places.

    KERAS_BACKEND=jax python benchmarks/gowalla.py --source data/gowalla --seeds 3 --write

The split of LightGCN: training pairs are the nonzeros of its normalized adjacency matrix above the diagonal, test places of each
user those of its test.txt. Ranks are among all places but those of the user's training pairs. A user is the mean of the vectors
of places in its training pairs, in training of a sample of the others, and may have a vector of its own besides.
"""

from __future__ import annotations

import gzip
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import click  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
from results import machine, markdown_table, report, write_option  # noqa: E402
from scipy import sparse  # noqa: E402

import keras_dlrm as kd  # noqa: E402

USERS, ITEMS = 29858, 40981
WHOLE = 200  # items of a user that its vector is made of in the end


def load(source: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Users and items of the training pairs, and each user's test items."""
    upper = sparse.triu(sparse.load_npz(source / "s_adj_mat.npz"), k=1).tocoo()
    test = [np.zeros(0, np.int64)] * USERS
    for line in gzip.decompress((source / "test.txt.gz").read_bytes()).decode().splitlines():
        user, *items = map(int, line.split())
        test[user] = np.array(items)
    return upper.row.astype(np.int32), (upper.col - USERS).astype(np.int32), test


class Batches(keras.utils.PyDataset):
    """Shuffled training pairs, each with a sample of the user's other items."""

    def __init__(self, users: np.ndarray, items: np.ndarray, history: int, user_id: bool, batch: int, seed: int) -> None:
        super().__init__()
        self.users, self.items, self.history, self.user_id, self.batch = users, items, history, user_id, batch
        order = np.lexsort((items, users))
        self.sorted, self.starts = items[order], np.searchsorted(users[order], np.arange(USERS + 1))
        self.draw = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        self.order = self.draw.permutation(len(self.users))

    def __len__(self) -> int:
        return len(self.users) // self.batch  # the rest has its turn in another epoch

    def __getitem__(self, i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = self.order[i * self.batch : (i + 1) * self.batch]
        users, items = self.users[rows], self.items[rows]
        return self.packed(users, items), np.ones(len(rows), np.float32)

    def packed(self, users: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of the model's schema; the item itself is left out of the history."""
        columns = [items[:, None], *([users[:, None]] if self.user_id else [])]
        if self.history:
            sizes = (self.starts[users + 1] - self.starts[users])[:, None]
            # A run of the user's items that begins anywhere; they are in no order of time.
            place = self.draw.integers(0, sizes) + np.arange(self.history)
            taken = self.sorted[self.starts[users][:, None] + place % sizes]
            real = (np.arange(self.history) < sizes) & (taken != items[:, None])
            columns.append(np.where(real, taken, -1))
        return {"sparse": np.concatenate(columns, axis=1).astype(np.int32)}


def run(users: np.ndarray, items: np.ndarray, test: list[np.ndarray], seed: int, options: dict[str, Any]) -> dict[str, float]:
    """Scores of one seed."""
    columns = [kd.Categorical("item", ITEMS)]
    if options["user_id"]:
        columns.append(kd.Categorical("user", USERS))
    if options["history"]:
        columns.append(kd.Categorical("history", ITEMS, hotness=options["history"], combiner="mean", table="item"))
    model = kd.models.TwoTower(
        kd.Schema(categorical=columns), [column.name for column in columns[1:]], ["item"], options["dim"], None, [], [],
        temperature=options["temperature"], init_scale=0.1, seed=seed,
    )  # fmt: skip
    data = Batches(users, items, options["history"], options["user_id"], options["batch"], seed)
    log_q = {"streaming": "streaming", "counts": np.bincount(items, minlength=ITEMS), "none": None}[options["log_q"]]
    steps = options["epochs"] * len(data)
    rate = keras.optimizers.schedules.CosineDecay(options["rate"], steps)
    model.compile(
        keras.optimizers.Adam(rate), kd.losses.InBatchSoftmax(log_q=log_q),
        embedding_optimizer=kd.optimizers.Adam(rate),
    )  # fmt: skip
    start = time.monotonic()
    model.fit(data, epochs=options["epochs"], verbose=0)
    seconds = (time.monotonic() - start) / options["epochs"]
    return {**evaluated(model, data, users, items, test), "seconds an epoch": seconds}


def evaluated(model: Any, data: Batches, users: np.ndarray, items: np.ndarray, test: list[np.ndarray]) -> dict[str, float]:
    """Scores among all items but those of the training pairs."""
    tables = model.embedding_tables()
    data.history = WHOLE if data.history else 0
    packed = data.packed(np.arange(USERS), np.full(USERS, -1))["sparse"]
    user = tables["user"].copy() if data.user_id else np.zeros((USERS, tables["item"].shape[1]), np.float32)
    for first in range(0, USERS if data.history else 0, 1000):
        ids = packed[first : first + 1000, 1 + data.user_id :]
        real = (ids >= 0)[..., None]
        user[first : first + 1000] += np.where(real, tables["item"][ids], 0).sum(1) / np.maximum(real.sum(1), 1)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (user, tables["item"])]
    seen = [data.sorted[data.starts[u] : data.starts[u + 1]] for u in range(USERS)]
    return kd.retrieval.evaluate(*unit, test, 20, seen, np.bincount(items, minlength=ITEMS))


@click.command()
@click.option("--source", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of the split.")
@click.option("--dim", default=128, show_default=True)
@click.option("--history", default=24, show_default=True, help="Other items of the user in a training row.")
@click.option("--user-id/--no-user-id", default=False, show_default=True, help="Whether users have vectors of their own.")
@click.option("--batch", default=1024, show_default=True)
@click.option("--epochs", default=6, show_default=True)
@click.option("--rate", default=0.01, show_default=True)
@click.option("--temperature", default=0.09, show_default=True)
@click.option("--log-q", type=click.Choice(["counts", "streaming", "none"]), default="counts", show_default=True)
@click.option("--seeds", default=3, show_default=True)
@write_option
def main(source: Path, seeds: int, into_results: bool, **options: Any) -> None:
    """Recall@20 and NDCG@20 of a two-tower model."""
    users, items, test = load(source)
    runs = []
    for seed in range(seeds):
        runs.append(run(users, items, test, seed, options))
        click.echo(runs[-1])
    row = {}
    for name in ("recall", "ndcg", "coverage", "gini", "popularity", "seconds an epoch"):
        values = [each[name] for each in runs]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 and name in ("recall", "ndcg") else ""
        row[name] = f"{statistics.mean(values):.{4 if spread or name == 'coverage' else 2}f}{spread}"
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())
    intro = f"At 20 among all places, {seeds} seeds; {settings}. {machine()}"
    report("Places of Gowalla's users", intro, markdown_table([row]), into_results)


if __name__ == "__main__":
    main()
