"""Logistic regression and LightGBM on a click log: one line of JSON with the test scores of each.

    python baselines.py FOLDER '{"dense": ["age"], "categorical": ["job"], "label": "click"}'

FOLDER holds train.parquet, valid.parquet and test.parquet. The logistic regression sees one-hot values that occur twice or
more and dense columns in fifty quantile bins; its C is chosen on the validation part, as are LightGBM's number of trees.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

BINS = 50
PARTS = ("train", "valid", "test")


def one_hot(ids: np.ndarray, width: int) -> sparse.csr_matrix:
    """A one in the column of each row's id; nothing for -1."""
    known = np.flatnonzero(ids >= 0)
    return sparse.csr_matrix((np.ones(len(known), np.float32), (known, ids[known])), shape=(len(ids), width))


def dense(train: pl.Series) -> Callable[[pl.Series], tuple[Any, Any]]:
    """One-hot quantile bins for the logistic regression and values for LightGBM, of any part."""
    reference = train.cast(pl.Float64).drop_nulls().drop_nans().to_numpy()
    cuts = np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1])) if len(reference) else np.zeros(1)

    def features(column: pl.Series) -> tuple[Any, Any]:
        values = column.cast(pl.Float64).to_numpy()
        bins = np.where(np.isnan(values), len(cuts) + 1, np.searchsorted(cuts, values))
        return one_hot(bins, len(cuts) + 2), values[:, None]

    return features


def categorical(train: pl.Series) -> Callable[[pl.Series], tuple[Any, Any]]:
    """Likewise of values that occur at least twice, others together, nulls as none."""
    counts = train.cast(pl.String).drop_nulls().value_counts()
    frequent = sorted(counts.filter(pl.col("count") >= 2)[train.name].to_list())
    number = {value: i + 1 for i, value in enumerate(frequent)}

    def features(column: pl.Series) -> tuple[Any, Any]:
        ids = np.array([-1 if v is None else number.get(v, 0) for v in column.cast(pl.String).to_list()])
        return one_hot(ids, len(number) + 1), ids[:, None].astype(np.float64)

    return features


def lists(train: pl.Series) -> Callable[[pl.Series], tuple[Any, Any]]:
    """A one for each value of a list."""
    values = sorted(train.explode().drop_nulls().unique().to_list())
    number = {value: i for i, value in enumerate(values)}

    def features(column: pl.Series) -> tuple[Any, Any]:
        places = [(row, number[v]) for row, found in enumerate(column.to_list()) for v in set(found or ()) if v in number]
        rows, ids = np.array(places or np.zeros((0, 2), int)).T
        hot = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, ids)), shape=(len(column), len(number)))
        return hot, hot.toarray()

    return features


def main(folder: Path, columns: dict[str, Any]) -> None:
    """Fit both and print their scores."""
    frames = {part: pl.read_parquet(folder / f"{part}.parquet") for part in PARTS}
    labels = {part: frame[columns["label"]].cast(pl.Int8).to_numpy() for part, frame in frames.items()}
    hot: dict[str, list[Any]] = {part: [] for part in PARTS}
    values: dict[str, list[Any]] = {part: [] for part in PARTS}
    ids = []
    for name in [*columns["dense"], *columns["categorical"]]:
        train = frames["train"][name]
        listed = isinstance(train.dtype, pl.List)
        kind = lists if listed else dense if name in columns["dense"] else categorical
        features = kind(train)
        before = sum(part.shape[1] for part in values["train"])
        for part, frame in frames.items():
            encoded, plain = features(frame[name])
            hot[part].append(encoded)
            values[part].append(plain)
        if kind is categorical:
            ids.append(before)
    encoded = {part: sparse.hstack(blocks).tocsr() for part, blocks in hot.items()}
    tree_values = {part: np.hstack(blocks) for part, blocks in values.items()}

    def show(name: str, probabilities: np.ndarray, start: float) -> None:
        y = labels["test"]
        figures = {"auc": roc_auc_score(y, probabilities), "logloss": log_loss(y, probabilities)}
        figures |= {"calibration": probabilities.mean() / y.mean(), "seconds": time.time() - start}
        print(json.dumps({"name": name, **figures}), flush=True)

    start = time.time()
    tried = [LogisticRegression(C=c, max_iter=300).fit(encoded["train"], labels["train"]) for c in (0.01, 0.03, 0.1, 0.3, 1)]
    best = min(tried, key=lambda model: log_loss(labels["valid"], model.predict_proba(encoded["valid"])[:, 1]))
    show("logistic regression", best.predict_proba(encoded["test"])[:, 1], start)
    start = time.time()
    data = lightgbm.Dataset(tree_values["train"], labels["train"], categorical_feature=ids)
    valid = lightgbm.Dataset(tree_values["valid"], labels["valid"], reference=data)
    leaves = 63 if len(labels["train"]) > 50_000 else 31
    settings = {"objective": "binary", "learning_rate": 0.05, "num_leaves": leaves, "verbose": -1}
    stop = lightgbm.early_stopping(50, verbose=False)
    trees = lightgbm.train(settings, data, 2000, [valid], callbacks=[stop])
    show("LightGBM", trees.predict(tree_values["test"]), start)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
