"""Two stages on ML-1M: films by a two-tower model, the best 200 of them ordered by a DLRM, beside the first stage and popularity.

    KERAS_BACKEND=jax python benchmarks/two_stages.py --source data/ml-1m --write

A row is a film that a user rated next, with the films before it. Each user's last two films are held out; the last one is ranked
among all films that the user has not rated before. The DLRM learns each user's latest rows beside other candidates, by a softmax
over the list. What it is told of them must be as it will be later, so they come from a first stage that was trained without these
rows. And a list is left out where the film is not among the candidates: it would teach the DLRM to prefer what is unlikely. Beside
the columns of users and films it has what the towers cannot know: how often the film comes after, or near, those before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import click  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from results import machine, markdown_table, report, write_option  # noqa: E402

import keras_dlrm as kd  # noqa: E402

LAST, BEFORE, NEAR, BATCH, CANDIDATES, TEMPERATURE = 3, 20, 10, 2048, 200, 0.07
# Lists of the second stage: rows of a batch, negatives of each, and how many of a user's rows.
LISTS, NEGATIVES, LATEST = 256, 16, 40
OF_PAIRS = ["score", "share", *(f"after_{i}" for i in range(LAST)), "near_last", "near_mean", "near_most"]
BEST = "two-tower, then DLRM"


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

    def schema(self, dense: Sequence[str] = ()) -> kd.Schema:
        sizes = {"user": self.users, "gender": 2, "age": 7, "occupation": 21}
        columns = [kd.Categorical(name, size) for name, size in sizes.items()]
        columns += [kd.Categorical(f"last_{i}", self.films, table="last") for i in range(LAST)]
        columns += [kd.Categorical("before", self.films, hotness=BEFORE, combiner="mean", table="film")]
        columns += [kd.Categorical("film", self.films), kd.Categorical("year", 83)]
        columns += [kd.Categorical("genres", 18, hotness=6, combiner="mean")]
        return kd.Schema(dense=dense, categorical=columns, label="next")

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


class FirstStage:
    """A two-tower model of some rows, and how often the films of these rows come after and near each other."""

    def __init__(self, log: Log, rows: np.ndarray, seed: int, epochs: int) -> None:
        self.log, schema, item = log, log.schema(), ["film", "year", "genres"]
        user = [name for name in schema.categorical_names if name not in item]
        self.model = kd.models.TwoTower(
            schema, user, item, 32, 64, [128], [128],
            item_id="film", temperature=TEMPERATURE, init_scale=0.1, seed=seed)  # fmt: skip
        data, times = Pairs(log, rows, seed), np.bincount(log.film[rows], minlength=log.films)
        compiled(self.model, 0.003, epochs * len(data), loss=kd.losses.InBatchSoftmax(log_q=times + 1))
        self.model.fit(data, epochs=epochs, verbose=0)
        self.catalog = log.packed(np.zeros(log.films, int), np.arange(log.films))
        self.films = keras.ops.convert_to_numpy(self.model.item_vectors(self.catalog))
        after, near = np.zeros((2, log.films, log.films), np.float32)
        for back in range(1, NEAR + 1):
            later = rows[log.place[rows] >= back]
            np.add.at(near, (log.film[later - back], log.film[later]), 1)
            if back <= LAST:
                np.add.at(after, (log.film[later - back], log.film[later]), 1 / back)
        share = (times + 10) / np.sum(times + 10)
        self.share = np.log(share)
        self.after = np.log((after + 5 * share) / (after.sum(axis=1, keepdims=True) + 5) / share)
        self.near = (near + near.T) / np.sqrt(np.outer(times + 10, times + 10))

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The users as they were before these rows, (B, 64)."""
        return keras.ops.convert_to_numpy(self.model.user_vectors(self.log.packed(rows, self.log.film[rows])))

    def candidates(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows whose film is among the best that the user did not rate otherwise, and these films, (B, 200)."""
        kept, best = [], []
        for first in range(0, len(rows), 4096):
            some = rows[first : first + 4096]
            scores = self.vectors(some) @ self.films.T
            own = np.take_along_axis(scores, self.log.film[some, None], axis=1)
            for score, user in zip(scores, self.log.user[some], strict=True):
                score[self.log.film[self.log.starts[user] : self.log.test[user] - 1]] = -np.inf
            near = np.sum(scores > own, axis=1) < CANDIDATES
            kept.append(some[near])
            best.append(np.argpartition(-scores[near], CANDIDATES, axis=1)[:, :CANDIDATES].astype(np.int16))
        return np.concatenate(kept), np.concatenate(best)

    def pairs(self, rows: np.ndarray, films: np.ndarray) -> np.ndarray:
        """What is known of each row's user and each of its films, (B, k, 8), float32; not yet standardized."""
        score = np.einsum("bd,bkd->bk", self.vectors(rows), self.films[films]) / TEMPERATURE
        columns, near = [score, self.share[films]], []
        for back in range(1, BEFORE + 1):
            known = (self.log.place[rows] >= back)[:, None]
            before = self.log.film[np.maximum(rows - back, 0), None]
            near.append(np.where(known, self.near[before, films], 0))
            if back <= LAST:
                columns.append(np.where(known, self.after[before, films], 0))
        columns += [near[0], np.mean(near, axis=0), np.max(near, axis=0)]
        return np.stack(columns, axis=-1).astype(np.float32)


class Lists(Pairs):
    """Shuffled rows, each beside some of a first stage's candidates, as a DLRM takes them."""

    def __init__(self, stage: FirstStage, rows: np.ndarray, seed: int) -> None:
        self.stage = stage
        self.of_lists, self.candidates = stage.candidates(rows)
        super().__init__(stage.log, np.arange(len(self.of_lists)), seed, LISTS)
        rows = self.draw.choice(self.of_lists, 20_000)
        films = np.column_stack([self.log.film[rows], self.draw.integers(0, self.log.films, len(rows))])
        pairs = stage.pairs(rows, films).reshape(-1, len(OF_PAIRS))
        self.mean, self.deviation = pairs.mean(axis=0), pairs.std(axis=0)

    def packed(self, stage: FirstStage, rows: np.ndarray, films: np.ndarray) -> dict[str, np.ndarray]:
        """Rows with (B, k) films each, as B x k rows; what is known of each pair comes from a stage, standardized as here."""
        pairs = (stage.pairs(rows, films) - self.mean) / self.deviation
        batch = self.log.packed(np.repeat(rows, films.shape[1]), films.reshape(-1))
        return {**batch, "dense": pairs.reshape(-1, len(OF_PAIRS))}

    def __getitem__(self, i: int) -> Any:
        lists = self.order[i * self.size : (i + 1) * self.size]
        drawn = self.draw.integers(0, CANDIDATES, (self.size, NEGATIVES))
        rows, others = self.of_lists[lists], np.take_along_axis(self.candidates[lists], drawn, axis=1)
        films = np.column_stack([self.log.film[rows], others])
        return self.packed(self.stage, rows, films), np.zeros((films.size, 1), np.float32)


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
    early = log.test[log.user[log.train]] - log.train > LATEST
    data = Lists(FirstStage(log, log.train[early], seed, epochs[0]), log.train[~early], seed)
    click.echo(f"seed {seed}: {len(data.of_lists) / np.sum(~early):.3f} of the latest films are among the candidates")
    ranker = kd.models.DLRM(
        log.schema(OF_PAIRS), 16, bottom_mlp=[64, 16], top_mlp=[256, 128, 1], interaction="cat_dot", seed=seed)  # fmt: skip
    compiled(ranker, 0.001, epochs[1] * len(data), loss=of_lists).fit(data, epochs=epochs[1], verbose=0)
    stage = FirstStage(log, log.train, seed, epochs[0])
    index = kd.retrieval.Index.build(stage.model, stage.catalog)

    def both(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each user's films in the order of the first stage, of both, and by popularity; none that were rated before."""
        before = [log.film[log.starts[user] : row] for user, row in enumerate(rows)]
        first = np.asarray(index.query(log.packed(rows, log.film[rows]), k=CANDIDATES, exclude=before)[0])
        scores = [
            ranker.predict(data.packed(stage, rows[at : at + 500], first[at : at + 500]), batch_size=20_000, verbose=0)
            for at in range(0, len(rows), 500)
        ]
        order = np.argsort(-np.concatenate(scores).reshape(first.shape), axis=1, kind="stable")
        popular = np.tile(log.popularity, (log.users, 1))
        for row, of_user in zip(popular, before, strict=True):
            row[of_user] = -1
        return first, np.take_along_axis(first, order, axis=1), np.argsort(-popular, axis=1, kind="stable")[:, :10]

    for name, rows in (("the film before the last", log.test - 1), ("the last film", log.test)):
        films, (first, second, popular) = log.film[rows], both(rows)
        gained = {"popularity": popular, "two-tower alone": first, BEST: second}
        gained = {way: gains(ranks, films) for way, ranks in gained.items()}
        among = np.mean((first == films[:, None]).any(axis=1))
        means = ", ".join(f"{way} {gain.mean():.4f}" for way, gain in gained.items())
        click.echo(f"seed {seed}, {name}: {among:.3f} among the candidates; {means}")
    return gained


@click.command()
@click.option("--source", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of ML-1M.")
@click.option("--epochs", nargs=2, type=int, default=(3, 1), show_default=True, help="Of the first and of the second stage.")
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
        above = "" if name == BEST else f"{low:+.4f} to {high:+.4f}"
        table.append({"ranked by": name, "NDCG@10": f"{gain.mean():.4f}", "both stages above it": above})
    note = f"{machine()}, {seeds} seeds, {log.users:,} users, 95% intervals of a paired bootstrap over users."
    report("Two stages, ML-1M", note, markdown_table(table), into_results)


if __name__ == "__main__":
    main()
