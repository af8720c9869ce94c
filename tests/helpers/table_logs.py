"""Logs of a few thousand rows in every format, with and without bad rows, for the tests of tables."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf

from keras_dlrm.files.marker import MARKER
from keras_dlrm.schema.schema import Categorical, Dense, Schema

SCHEMA = Schema(
    dense=[Dense("price", "log1p"), Dense("age", "log1p_standardize"), Dense("size", "quantile")],
    categorical=[
        Categorical("city"),
        Categorical("user", min_count=2, max_vocabulary=300),
        Categorical("tags", hotness=3, combiner="mean"),
        Categorical("last_tag", table="tags"),
        Categorical("given", 50),
    ],
    label="click",
)
FORMATS = ("csv", "tsv.gz", "parquet", "tfrecord", "tfrecord.gz")


def make_rows(rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with missing values, as Python values."""
    draw = np.random.default_rng(seed)
    found = []
    for i in range(rows):
        row: dict[str, Any] = {
            "click": int(draw.integers(0, 2)),
            "price": float(draw.integers(-2, 999)) / 4,
            "age": float(draw.integers(0, 99)),
            "size": float(draw.integers(0, 10**6)),
            "city": f"city {int(draw.pareto(1.0))}, Köln",
            "user": int(draw.integers(0, rows)),
            "tags": [f"t{int(t)}" for t in draw.integers(0, 40, draw.integers(0, 4))],
            "last_tag": f"t{int(draw.integers(0, 60))}",
            "given": int(draw.integers(0, 50)),
            "unused": i,
        }
        if i % 7 == 3:
            row[["price", "age", "city", "given"][i % 4]] = None
        found.append(row)
    return found


def spoil(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and bad ones among them, whose values occur nowhere else."""
    found = []
    for i, row in enumerate(rows):
        if i % 31 == 5:
            bad = {**row, "city": f"only bad {i}", "tags": [f"only bad {i}"], "last_tag": f"only bad {i}", "age": 9e9}
            changes = [{"click": 2}, {"given": 51}, {"given": 50}, {"tags": list("abcd")}, {"given": -2}]
            found.append({**bad, **changes[(i // 31) % 5]})
        found.append(row)
    return found


def save(rows: list[dict[str, Any]], path: Path) -> Path:
    """Write rows in the format of the ending."""
    if path.name.endswith(".parquet"):
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path, row_group_size=500)
    elif ".tfrecord" in path.name:
        packed = path.suffix == ".gz"
        with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP") if packed else None) as writer:
            for row in rows:
                writer.write(example(row))
    else:
        flat = pl.DataFrame([{**row, "tags": "|".join(row["tags"])} for row in rows], infer_schema_length=None)
        text = flat.write_csv(separator="\t" if ".tsv" in path.name else ",").encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def example(row: dict[str, Any]) -> bytes:
    """A row as a serialized Example; what is missing is left out."""
    found = tf.train.Example()
    for name, value in row.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        for v in values:
            feature = found.features.feature[name]
            if isinstance(v, str):
                feature.bytes_list.value.append(v.encode())
            elif isinstance(v, float):
                feature.float_list.value.append(v)
            else:
                feature.int64_list.value.append(v)
    return found.SerializeToString()


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)  # which names the folder
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def results(folder: Path) -> dict[str, bytes]:
    """The files of a processed directory, but what says where it comes from."""
    return {name: content for name, content in contents(folder).items() if name != "manifest.json"}
