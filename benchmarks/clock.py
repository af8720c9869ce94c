"""Seconds of a program's parts, its test AUC against them, and a log as NumPy arrays. NumPy and Polars only: peers import it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("train", "valid", "test")


class Clock:
    """Seconds of a program's parts, and its test AUC against seconds.

    Args:
        start: `time.time()` of its command.
        labels: Of the test part.
        target: AUC to reach.
        limit: Seconds after which it stops without.
    """

    def __init__(self, start: float, labels: np.ndarray, target: float, limit: float) -> None:
        self.start, self.labels, self.target, self.limit = start, labels, target, limit
        self.paused = self.scoring = 0.0
        self.parts: dict[str, float] = {}
        self.points: list[tuple[float, float]] = []

    def now(self) -> float:
        """Seconds since the command, without those that scored the test part."""
        return time.time() - self.start - self.paused

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time spent in this context as that part."""
        since = self.now()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + self.now() - since

    def ended(self, predict: Callable[[], np.ndarray]) -> bool:
        """Score the test part; whether the target is reached or the time is up."""
        seconds, since, of_cpu = self.now(), time.time(), time.process_time()
        self.points.append((round(seconds, 2), auc(self.labels, np.asarray(predict(), np.float64).ravel())))
        self.paused += time.time() - since
        self.scoring += time.process_time() - of_cpu
        return self.points[-1][1] >= self.target or seconds > self.limit


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Exact area under the ROC curve, ties counted half."""
    values, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    clicks = labels.sum()
    return float((ranks[labels == 1].sum() - clicks * (clicks + 1) / 2) / (clicks * (len(labels) - clicks)))


def scaled(folder: Path, columns: dict[str, Any]) -> dict[str, Any]:
    """The parts as Polars frames, their dense columns as numbers of mean 0 and deviation 1: of logarithms where they are counts."""
    import polars as pl  # slow to import: it counts as preprocessing

    frames = {part: pl.read_parquet(folder / f"{part}.parquet") for part in PARTS}
    numbers = []
    for name in columns["dense"]:
        value = pl.col(name).fill_null(0).cast(pl.Float32)
        value = (value.clip(0) + 1).log() if columns["counts"] else value
        train = frames["train"].select(value).to_series()
        numbers.append(((value - train.mean()) / (train.std() or 1)).cast(pl.Float32))
    return {part: frame.with_columns(numbers) for part, frame in frames.items()}


def encoded(folder: Path, columns: dict[str, Any]) -> tuple[dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], dict[str, int]]:
    """Dense values, ids (0: unseen or padding) and labels of each part, as NumPy, and rows of each table."""
    frames = scaled(folder, columns)
    import polars as pl

    train = frames["train"]
    known = {}
    for name, hotness in columns["categorical"].items():
        values = train[name].explode() if hotness > 1 else train[name]
        values = values.drop_nulls().unique(maintain_order=True)
        known[name] = pl.DataFrame({name: values, "id": np.arange(1, len(values) + 1, dtype=np.int64)})
    parts = {}
    for part, frame in frames.items():
        ids = []
        for name, hotness in columns["categorical"].items():
            if hotness == 1:
                joined = frame.select(name).join(known[name], on=name, how="left", maintain_order="left")
                ids.append(joined["id"].fill_null(0).to_numpy()[:, None])
                continue
            values = frame.select(name).with_row_index().explode(name).drop_nulls()
            joined = values.join(known[name], on=name, how="inner", maintain_order="left")
            row = joined["index"].to_numpy()
            lists = np.zeros((len(frame), hotness), np.int64)
            lists[row, np.arange(len(row)) - np.searchsorted(row, row)] = joined["id"].to_numpy()
            ids.append(lists)
        dense = frame.select(columns["dense"]).to_numpy() if columns["dense"] else np.zeros((len(frame), 0), np.float32)
        parts[part] = dense, np.hstack(ids), frame[columns["label"]].to_numpy().astype(np.float32)
    return parts, {name: len(frame) + 1 for name, frame in known.items()}
