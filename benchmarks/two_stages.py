"""Two stages on ML-1M: films by a two-tower model, the best 200 of them ordered by a DLRM, beside the first stage and popularity.

    KERAS_BACKEND=jax python benchmarks/two_stages.py --source data/ml-1m --write

A row is a film that a user rated next, with the films before it. Each user's last two films are held out; the last one is ranked
among all films that the user has not rated before. The DLRM begins with the first stage's tables. It learns each of a user's latest
rows beside films that the first stage would have proposed then and that the user did not rate, by a softmax over the list. The one
before the last tells how much of the first stage's score belongs into the order.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import click  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from results import machine, markdown_table, report, write_option  # noqa: E402

import keras_dlrm as kd  # noqa: E402

LAST, BEFORE, BATCH, CANDIDATES = 3, 20, 2048, 200
# Lists of the second stage: rows of a batch, negatives of each, and how many of a user's rows.
LISTS, NEGATIVES, LATEST = 256, 16, 40
BEST = "two-tower, then DLRM"
BLENDS = (0.0, 0.1, 0.25, 0.5, 1.0)


class Log:
    """Films of each user in order, and what is known of films and users."""

    def __init__(self, source: Path) -> None:
        ratings = pl.read_parquet(source / "ratings.parquet").sort("user_id", "chrono_rank")
        lines = (source / "movies.dat").read_text(encoding="latin1").splitlines()
        films = {int(line.split("::")[0]): line.split("::") for line in lines}
        ids, self.film = np.unique(ratings["item_id"].to_numpy(), return_inverse=True)
        users, self.user = np.unique(ratings["user_id"].to_numpy(), return_inverse=True)
        self.films, self.users = len(ids), len(users)
        self.starts = np.searchsorted(self.user, np.arange(self.users + 1))
        self.place = np.arange(len(self.film)) - self.starts[self.user]
        self.test = self.starts[1:] - 1
        self.train = np.setdiff1d(np.flatnonzero(self.place > 0), [self.test, self.test - 1])
        genres = sorted({genre for film in films.values() for genre in film[2].split("|")})
        self.genres = np.full((self.films, 6), -1)
        self.year = np.zeros(self.films, np.int64)
        for row, film in enumerate(ids):
            _, title, kinds = films.get(int(film), ("", "(1995)", ""))
            self.year[row] = int(re.findall(r"\((\d{4})\)", title)[-1]) - 1918
            known = [genres.index(kind) for kind in kinds.split("|") if kind]
            self.genres[row, : len(known)] = known
        people = np.array([line.split("::") for line in (source / "users.dat").read_text().splitlines()])
        self.person = np.column_stack([np.unique(people[:, column], return_inverse=True)[1] for column in (1, 2, 3)])
        self.popularity = np.bincount(self.film[self.train], minlength=self.films)

    def schema(self) -> kd.Schema:
        sizes = {"user": self.users, "gender": 2, "age": 7, "occupation": 21}
        columns = [kd.Categorical(name, size) for name, size in sizes.items()]
        columns += [kd.Categorical(f"last_{i}", self.films, table="last") for i in range(LAST)]
        columns += [kd.Categorical("before", self.films, hotness=BEFORE, combiner="mean", table="film")]
        columns += [kd.Categorical("film", self.films), kd.Categorical("year", 83)]
        return kd.Schema(categorical=[*columns, kd.Categorical("genres", 18, hotness=6, combiner="mean")], label="next")

    def packed(self, rows: np.ndarray, films: np.ndarray) -> dict[str, np.ndarray]:
        """The users as they were before the ratings of `rows`, each with a film."""
        place = self.place[rows][:, None]
        back = np.arange(1, BEFORE + 1)
        before = np.where(back <= place, self.film[np.maximum(rows[:, None] - back, 0)], -1)
        user = self.user[rows]
        of_film = [films[:, None], self.year[films][:, None], self.genres[films]]
        parts = [user[:, None], self.person[user], before[:, :LAST], before, *of_film]
        return {"sparse": np.concatenate(parts, axis=1).astype(np.int32)}


class Pairs(keras.utils.PyDataset):
    """Shuffled rows, each with its film."""

    def __init__(self, log: Log, rows: np.ndarray, seed: int, size: int = BATCH) -> None:
        super().__init__()
        self.log, self.rows, self.size, self.draw = log, rows, size, np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        self.order = self.draw.permutation(self.rows)

    def __len__(self) -> int:
        return len(self.order) // self.size

    def __getitem__(self, i: int) -> Any:
        rows = self.order[i * self.size : (i + 1) * self.size]
        return self.log.packed(rows, self.log.film[rows]), np.ones(self.size, np.float32)


class Lists(Pairs):
    """Shuffled rows, each beside some of its best candidates by vectors of all rows' users and of all films."""

    def __init__(self, log: Log, rows: np.ndarray, seed: int, users: np.ndarray, films: np.ndarray) -> None:
        self.users, self.films = users, films
        super().__init__(log, rows, seed, LISTS)

    def __getitem__(self, i: int) -> Any:
        rows = self.order[i * self.size : (i + 1) * self.size]
        scores = self.users[rows] @ self.films.T
        for score, user in zip(scores, self.log.user[rows], strict=True):  # none that is known to have been rated
            score[self.log.film[self.log.starts[user] : self.log.test[user] - 1]] = -np.inf
        best = np.argpartition(-scores, CANDIDATES, axis=1)[:, :CANDIDATES]
        drawn = np.take_along_axis(best, self.draw.integers(0, CANDIDATES, (self.size, NEGATIVES)), axis=1)
        films = np.column_stack([self.log.film[rows], drawn]).reshape(-1)
        return self.log.packed(np.repeat(rows, 1 + NEGATIVES), films), np.zeros((len(films), 1), np.float32)


def of_lists(_: Any, probabilities: Any) -> Any:
    """Cross-entropy of a softmax over each list, whose first film is the one that was rated."""
    p = keras.ops.clip(probabilities, 1e-7, 1 - 1e-7)
    logits = keras.ops.reshape(keras.ops.log(p) - keras.ops.log(1 - p), (-1, 1 + NEGATIVES))
    return -keras.ops.mean(keras.ops.log_softmax(logits, axis=1)[:, 0])


def compiled(model: Any, rate: float, steps: int, **loss: Any) -> Any:
    """The model with Adam, whose rate falls to nothing over the steps."""
    rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(rate), **loss, embedding_optimizer=kd.optimizers.Adam(rate, l2=1e-7))
    return model


def gains(ranks: np.ndarray, films: np.ndarray) -> np.ndarray:
    """NDCG@10 of each list, (B, k) films, with one relevant film each."""
    hit = ranks[:, :10] == films[:, None]
    return (hit / np.log2(np.arange(2, 12))[: hit.shape[1]]).sum(axis=1)


def one(log: Log, seed: int, epochs: tuple[int, int]) -> dict[str, np.ndarray]:
    """NDCG@10 of each user's held-out film by each way."""
    schema = log.schema()
    item = ["film", "year", "genres"]
    user = [name for name in schema.categorical_names if name not in item]
    tower = kd.models.TwoTower(
        schema, user, item, 32, 64, [128], [128], item_id="film", temperature=0.07, init_scale=0.1, seed=seed)  # fmt: skip
    data = Pairs(log, log.train, seed)
    compiled(tower, 0.003, epochs[0] * len(data), loss=kd.losses.InBatchSoftmax(log_q=log.popularity + 1))
    tower.fit(data, epochs=epochs[0], verbose=0)
    catalog = log.packed(np.zeros(log.films, int), np.arange(log.films))
    index = kd.retrieval.Index.build(tower, catalog)
    users = np.zeros((len(log.film), 64), np.float32)
    for first in range(0, len(users), 2**15):
        rows = np.arange(first, min(first + 2**15, len(users)))
        users[rows] = keras.ops.convert_to_numpy(tower.user_vectors(log.packed(rows, log.film[rows])))
    films_of_tower = keras.ops.convert_to_numpy(tower.item_vectors(catalog))
    ranker = kd.models.DLRM(schema, 32, top_mlp=[256, 128, 1], interaction="cat_dot", seed=seed)
    ranker.set_embedding_tables(tower.embedding_tables())
    latest = log.train[log.test[log.user[log.train]] - log.train <= LATEST]
    data = Lists(log, latest, seed, users, films_of_tower)
    compiled(ranker, 0.001, epochs[1] * len(data), loss=of_lists)
    ranker.fit(data, epochs=epochs[1], verbose=0)

    def both(rows: np.ndarray, blend: float) -> np.ndarray:
        asked, before = log.packed(rows, log.film[rows]), [log.film[log.starts[u] : rows[u]] for u in range(log.users)]
        options: dict[str, Any] = {"k": 10, "candidates": CANDIDATES, "blend": blend, "exclude": before}
        return kd.retrieval.recommend(index, ranker, asked, **options)[0]

    chosen = {blend: gains(both(log.test - 1, blend), log.film[log.test - 1]).mean() for blend in BLENDS}
    click.echo(f"seed {seed}, the film before the last, by blend: {chosen}")
    asked = log.packed(log.test, log.film[log.test])
    before = [log.film[log.starts[u] : log.test[u]] for u in range(log.users)]
    films = log.film[log.test]
    first, _ = index.query(asked, k=CANDIDATES, exclude=before)
    popular = np.tile(log.popularity, (log.users, 1))
    for row, of_user in zip(popular, before, strict=True):
        row[of_user] = -1
    by_popularity = np.argsort(-popular, axis=1, kind="stable")[:, :10]
    click.echo(f"seed {seed}: of the {CANDIDATES} candidates have the film {np.mean((first == films[:, None]).any(axis=1)):.3f}")
    ranked = {"popularity": by_popularity, "two-tower alone": first, "DLRM's order alone": both(log.test, 0.0)}
    ranked[BEST] = both(log.test, max(chosen, key=chosen.__getitem__))
    return {name: gains(ranks, films) for name, ranks in ranked.items()}


@click.command()
@click.option("--source", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of ML-1M.")
@click.option("--epochs", nargs=2, type=int, default=(3, 3), show_default=True, help="Of the first and of the second stage.")
@click.option("--seeds", default=1, show_default=True)
@write_option
def main(source: Path, epochs: tuple[int, int], seeds: int, into_results: bool) -> None:
    """NDCG@10 among all films."""
    log = Log(source)
    runs = [one(log, seed, epochs) for seed in range(seeds)]
    mean = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
    draw = np.random.default_rng(0)
    samples = draw.integers(0, log.users, (1000, log.users))
    best = mean[BEST]
    table = []
    for name, gain in mean.items():
        low, high = np.percentile((best - gain)[samples].mean(axis=1), [2.5, 97.5])
        table.append({"ranked by": name, "NDCG@10": f"{gain.mean():.4f}", "both stages above it": f"{low:+.4f} to {high:+.4f}"})
    note = f"{machine()}, {seeds} seeds, {log.users:,} users, 95% intervals of a paired bootstrap over users."
    report("Two stages, ML-1M", note, markdown_table(table), into_results)


if __name__ == "__main__":
    main()
