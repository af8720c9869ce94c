"""Items that training never saw: AUC on them and on the others, with ids alone, with Semantic IDs, with content vectors.

    KERAS_BACKEND=jax taskset -c 1 python benchmarks/cold_items.py planted --write
    KERAS_BACKEND=jax taskset -c 1 python benchmarks/cold_items.py films --source data/ml-1m --write

`planted` has a fifth of the items in the test part alone, and knows the best possible AUC. `films` withholds a fifth of the films
of ML-1M from training: 4 stars and more are likes; the content is genres, year and a hash of the title's words.
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
from keras_dlrm.data.kernels.string_hash import buckets  # noqa: E402
from keras_dlrm.metrics import auc, paired_bootstrap_runs  # noqa: E402

IDS, SEMANTIC, VECTOR = KINDS = "ids alone", "ids and Semantic IDs", "ids and content vector"
BATCH = 2048
WORDS = 32
DROPOUT = 0.3


def schema_of(kind: str, width: int, codes: int, dropout: float) -> kd.Schema:
    """Columns of a kind of model."""
    sparse = [kd.Categorical("user", oov=None), kd.Categorical("item", id_dropout=0.0 if kind == IDS else dropout)]
    if kind == SEMANTIC:
        sparse.append(kd.SemanticIds("codes", of="vector", width=width, levels=3, codes=codes, rows=2**16))
    dense = kd.ContentVector("vector", width, "none") if kind == VECTOR else ()
    return kd.Schema(dense, sparse, label="click")


def predictions(
    kind: str, train: pl.DataFrame, test: pl.DataFrame, seed: int, epochs: int, codes: int, dropout: float, l2: float, rate: float
) -> np.ndarray:
    """p(click) of the test rows by a model that was trained on the others."""
    schema = schema_of(kind, len(train["vector"][0]), codes, dropout)
    preprocessor = kd.data.Preprocessor.fit(schema, train)
    if seed == 0 and preprocessor.codebooks:
        click.echo(f"{kind}: {preprocessor.codebooks['codes']}")
    model = kd.models.DeepFM(preprocessor.schema, embedding_dim=16, deep_mlp=[64, 32], init_scale=0.05, seed=seed)
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(train) // BATCH))
    model.compile(keras.optimizers.Adam(schedule), "binary_crossentropy", embedding_optimizer=kd.optimizers.Adam(schedule, l2=l2))
    keras.utils.set_random_seed(seed)
    model.fit(preprocessor.transform(train), train["click"].to_numpy(), batch_size=BATCH, epochs=epochs, verbose=0)
    return model.predict(preprocessor.transform(test), batch_size=BATCH * 8, verbose=0)[:, 0]


def planted_log(items: int, rows: int, test_rows: int) -> tuple[pl.DataFrame, pl.DataFrame, np.ndarray]:
    """Training and test rows of a planted log, and the true probabilities of the latter."""
    planted = kd.data.synthetic
    columns = kd.Schema(categorical=[kd.Categorical("user", 1000), kd.Categorical("item", items)], label="click")
    cold = planted.ColdItems(0.2, parts=["test"], tables=["item"])
    log = planted.PlantedClickLog(columns, seed=0, zipf=0.7, cold=cold, content=planted.ItemContent("item"))
    frames, batch = [], None
    for part, count in (("train", rows), ("test", test_rows)):
        batch, label = next(log.batches(count, n_batches=1, part=part))
        item = batch["sparse"][:, 1]
        frames.append(pl.DataFrame({"user": batch["sparse"][:, 0], "item": item, "vector": log.content[item], "click": label}))
    return frames[0], frames[1], log.probabilities(batch)


def film_rows(source: Path, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ratings of four fifths of the films but for a tenth of them, and the others."""
    lines = (source / "movies.dat").read_bytes().decode("latin-1").strip().split("\n")
    films = [line.split("::") for line in lines]
    genres = sorted({genre for _, _, text in films for genre in text.split("|")})
    vectors = {}
    for number, title, text in films:
        name, year = re.search(r"(.*)\((\d{4})\)", title).groups()
        words = np.zeros(WORDS)
        np.add.at(words, buckets(pl.Series(re.findall(r"\w+", name.lower())), WORDS), 1.0)
        is_genre = [float(genre in text.split("|")) for genre in genres]
        vectors[int(number)] = [*is_genre, (int(year) - 1980) / 30, *(0.2 * words / max(np.linalg.norm(words), 1.0))]
    content = pl.DataFrame({"item": list(vectors), "vector": list(vectors.values())})
    ratings = pl.read_parquet(source / "ratings.parquet").select(user="user_id", item="item_id", click=pl.col("rating") >= 4)
    rows = ratings.with_columns(pl.col("click").cast(pl.Float32)).join(content, on="item")
    random = np.random.default_rng(seed)
    known = np.unique(rows["item"].to_numpy())
    withheld = np.isin(rows["item"].to_numpy(), random.choice(known, len(known) // 5, replace=False))
    test = withheld | (random.random(len(rows)) < 0.1)
    return rows.filter(~pl.Series(test)), rows.filter(pl.Series(test))


Scores = dict[str, list[np.ndarray]]


def compared(train: pl.DataFrame, test: pl.DataFrame, kinds: Sequence[str], seeds: int, **options: Any) -> Scores:
    """Predictions of each kind of model, by seed."""
    return {kind: [predictions(kind, train, test, seed, **options) for seed in range(seeds)] for kind in kinds}


def areas(scores: Scores, labels: np.ndarray, cold: np.ndarray) -> dict[str, tuple[float, float]]:
    """AUC on the rows of known and of new items, means over the seeds."""
    return {
        kind: tuple(float(np.mean([auc(labels[rows], p[rows]) for p in each])) for rows in (~cold, cold))
        for kind, each in scores.items()
    }


@click.group()
def main() -> None:
    """AUC on new items."""


def _options(command: Any) -> Any:
    for option in (
        click.option("--seeds", default=3, show_default=True), click.option("--epochs", default=3, show_default=True),
        click.option("--codes", default=32, show_default=True), click.option("--dropout", default=DROPOUT, show_default=True),
        click.option("--l2", default=1e-6, show_default=True), click.option("--rate", default=0.003, show_default=True),
        click.option("--kind", "kinds", multiple=True, default=KINDS), write_option,
    ):  # fmt: skip
        command = option(command)
    return command


@main.command()
@click.option("--items", default=10_000, show_default=True)
@click.option("--rows", default=400_000, show_default=True)
@click.option("--test-rows", default=200_000, show_default=True)
@_options
def planted(items: int, rows: int, test_rows: int, kinds: tuple[str, ...], into_results: bool, **options: Any) -> None:
    """A planted log."""
    train, test, truth = planted_log(items, rows, test_rows)
    labels, cold = test["click"].to_numpy(), ~test["item"].is_in(train["item"].unique().to_list()).to_numpy()
    scores = areas(compared(train, test, kinds, **options), labels, cold)
    best = tuple(auc(labels[part], truth[part]) for part in (~cold, cold))
    lines = []
    for kind, (warm, new) in {**scores, "best possible": best}.items():
        closed = (new - scores[IDS][1]) / (best[1] - scores[IDS][1])
        lines.append({"model": kind, "known items": f"{warm:.4f}", "new items": f"{new:.4f}", "of the gap": f"{closed:.0%}"})
    note = f"{machine()}, {rows:,} training rows, {items:,} items, {cold.mean():.0%} of {test_rows:,} test rows new, {options}."
    report("New items of a planted log", note, markdown_table(lines), into_results)


@main.command()
@click.option("--source", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of ML-1M.")
@_options
def films(source: Path, kinds: tuple[str, ...], into_results: bool, **options: Any) -> None:
    """ML-1M with a fifth of the films withheld from training."""
    train, test = film_rows(source, seed=0)
    labels, cold = test["click"].to_numpy(), ~test["item"].is_in(train["item"].unique().to_list()).to_numpy()
    scores = compared(train, test, kinds, **options)
    lines = []
    for kind, (warm, new) in areas(scores, labels, cold).items():
        differences = []
        for rows in (~cold, cold):
            runs = [[p[rows] for p in scores[which]] for which in (kind, IDS)]
            more = paired_bootstrap_runs(labels[rows], *runs, samples=200)["auc"]
            differences.append("" if kind == IDS else f" ({more.difference:+.4f}, {more.low:+.4f} to {more.high:+.4f})")
        lines.append({"model": kind, "known films": f"{warm:.4f}{differences[0]}", "new films": f"{new:.4f}{differences[1]}"})
    parts = f"{len(train):,} training rows; test rows: {(~cold).sum():,} of known films, {cold.sum():,} of new ones"
    note = f"{machine()}, {parts}, {options}. In parentheses: difference to ids alone, paired bootstrap over rows and seeds, 95%."
    report("New films of ML-1M", note, markdown_table(lines), into_results)


if __name__ == "__main__":
    main()
