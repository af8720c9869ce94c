"""Public click logs → processed directories, on the splits that published results use.

The data are not ours to ship: point `--source` at your copies.

    python benchmarks/prepare.py ml-1m   --source data/ml-1m     --output prepared/ml-1m
    python benchmarks/prepare.py frappe  --source data/frappe_x1 --output prepared/frappe
    python benchmarks/prepare.py criteo  --source data/criteo    --output prepared/criteo

`criteo-10k` and `adult` likewise.
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import click
import polars as pl

from keras_dlrm import Categorical, Dense, Schema
from keras_dlrm.data import tables
from keras_dlrm.support.terminal import print_table

FRAPPE = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
ADULT = {
    "age": "number", "workclass": "word", "fnlwgt": "number", "education": "word", "education_num": "number",
    "marital_status": "word", "occupation": "word", "relationship": "word", "race": "word", "sex": "word",
    "capital_gain": "number", "capital_loss": "number", "hours_per_week": "number", "native_country": "word", "income": "label",
}  # fmt: skip


def ml_1m(source: Path) -> tuple[Schema, dict[str, pl.DataFrame]]:
    """MovieLens 1M: a rating of 4 or 5 is a click. By user in time order, the last tenth tests, the one before validates."""
    ratings = pl.read_parquet(source / "ratings.parquet")
    users = _colons(source / "users.dat", ["user_id", "gender", "age", "occupation", "zip"])
    movies = _colons(source / "movies.dat", ["item_id", "title", "genres"])
    users = users.with_columns(pl.col("user_id").cast(pl.Int64), pl.col("zip").str.slice(0, 3).alias("zip3"))
    movies = movies.with_columns(
        pl.col("item_id").cast(pl.Int64),
        pl.col("title").str.extract(r"\((\d{4})\)\s*$").alias("year"),
        pl.col("genres").str.split("|"),
    )
    log = ratings.with_columns(pl.col("user_id").cast(pl.Int64), pl.col("item_id").cast(pl.Int64))
    log = log.join(users, on="user_id", how="left", maintain_order="left")
    log = log.join(movies, on="item_id", how="left", maintain_order="left")
    tenth = (pl.len().over("user_id") * 0.1).floor().cast(pl.Int64)
    log = log.with_columns(
        label=(pl.col("rating") >= 4).cast(pl.Int8), back=pl.len().over("user_id") - pl.col("chrono_rank"), tenth=tenth
    )
    test = pl.col("back") <= pl.col("tenth")
    valid = ~test & (pl.col("back") <= 2 * pl.col("tenth"))
    names = ["user_id", "item_id", "gender", "age", "occupation", "zip3", "year", "genres"]
    hotness = int(movies["genres"].list.len().max())  # type: ignore[arg-type]
    schema = Schema(
        categorical=[*(Categorical(n) for n in names[:-1]), Categorical("genres", hotness=hotness, combiner="mean")],
        label="label",
    )
    log = log.select(*names, "label", test=test, valid=valid)
    return schema, {
        "train": log.filter(~pl.col("test") & ~pl.col("valid")).drop("test", "valid"),
        "valid": log.filter(pl.col("valid")).drop("test", "valid"),
        "test": log.filter(pl.col("test")).drop("test", "valid"),
    }


def frappe(source: Path) -> tuple[Schema, dict[str, pl.DataFrame]]:
    """Frappe, the BARS x1 split: the files as they are."""
    files = {"train": "train_pos_genuine_neg_resampled.csv", "valid": "valid.csv", "test": "test.csv"}
    schema = Schema(categorical=[Categorical(name) for name in FRAPPE], label="label")
    return schema, {part: pl.read_csv(source / name) for part, name in files.items()}


def criteo_10k(source: Path) -> tuple[Schema, dict[str, pl.DataFrame]]:
    """The first 10,000 rows of Criteo Kaggle, raw: 7,000 train, 1,000 validate, 2,000 test."""
    log = pl.read_csv(source / "kaggle_first10k.csv")
    return _criteo_schema(), {"train": log[:7_000], "valid": log[7_000:8_000], "test": log[8_000:10_000]}


def criteo(source: Path) -> tuple[Schema, dict[str, pl.DataFrame]]:
    """20,000 consecutive rows of Criteo Kaggle: the first 14,000 train, 2,000 validate, 4,000 test."""
    log = pl.read_csv(source / "kaggle_rows90k-110k_idx.csv").drop("Id")
    return _criteo_schema(), {"train": log[:14_000], "valid": log[14_000:16_000], "test": log[16_000:20_000]}


def adult(source: Path) -> tuple[Schema, dict[str, pl.DataFrame]]:
    """UCI Adult, an income above $50,000 as the click: the last tenth of its training file validates, its test file tests."""
    schema = Schema(
        dense=[Dense(name, transform="quantile") for name, kind in ADULT.items() if kind == "number"],
        categorical=[Categorical(name, min_count=2) for name, kind in ADULT.items() if kind == "word"],
        label="income",
    )
    train, test = (_adult_rows(source / name) for name in ("adult.data.gz", "adult.test.gz"))
    cut = len(train) * 9 // 10
    return schema, {"train": train[:cut], "valid": train[cut:], "test": test}


def _adult_rows(path: Path) -> pl.DataFrame:
    lines = [line.split(",") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    rows = [[value.strip() for value in line] for line in lines if len(line) == len(ADULT)]
    text = pl.DataFrame(rows, schema=dict.fromkeys(ADULT, pl.String), orient="row").with_columns(pl.all().replace("?", None))
    numbers = [name for name, kind in ADULT.items() if kind == "number"]
    return text.with_columns(pl.col(numbers).cast(pl.Int64), pl.col("income").str.starts_with(">50K").cast(pl.Int8))


def _criteo_schema() -> Schema:
    return Schema(
        dense=[Dense(f"I{i}", transform="quantile") for i in range(1, 14)],
        categorical=[Categorical(f"C{i}", min_count=2) for i in range(1, 27)],
        label="label",
    )


def _colons(path: Path, names: list[str]) -> pl.DataFrame:
    lines = [line.split("::") for line in path.read_text(encoding="latin-1").splitlines()]
    return pl.DataFrame(lines, schema=dict.fromkeys(names, pl.String), orient="row")


LOGS = {"ml-1m": ml_1m, "frappe": frappe, "criteo": criteo, "criteo-10k": criteo_10k, "adult": adult}


@click.command()
@click.argument("name", type=click.Choice(list(LOGS)))
@click.option("--source", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of the raw files.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Processed directory to write.")
@click.option("--overwrite", is_flag=True)
def main(name: str, source: Path, output: Path, overwrite: bool) -> None:
    """Write a processed directory of a public click log."""
    schema, parts = LOGS[name](source)
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for part, frame in parts.items():
            files[part] = Path(folder) / f"{part}.parquet"
            frame.write_parquet(files[part])
        log = tables.preprocess(schema, **files, output=output, overwrite=overwrite)
    print_table(
        [{"part": part, "rows": len(frame), "clicks": int(frame[schema.label].sum())} for part, frame in parts.items()], name
    )
    print_table([{"table": table, "rows": rows} for table, rows in log.schema.table_sizes.items()])


if __name__ == "__main__":
    main()
