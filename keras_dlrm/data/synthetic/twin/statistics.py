"""Statistics of a private log that may be shared: shapes, shares and means over many rows."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.synthetic.stack_profile import StackProfile
from keras_dlrm.files.documents import from_json
from keras_dlrm.files.durable import write
from keras_dlrm.files.paths import regular
from keras_dlrm.schema.schema import Schema

FORMAT = "keras_dlrm click log statistics"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class SparseStatistics:
    """A sparse column: how often its ids come, without the ids."""

    lengths: list[float]  # share of rows with 0, 1, … hotness ids; the first is the missing rate
    ids: list[int]  # number of different ids in each bucket, the most popular bucket first
    references: list[int]  # how often the ids of each bucket came, together
    click_rate: list[float]  # share of clicks among those references, drawn towards the log's
    locality: StackProfile  # stack distances at the beginning of the log

    @property
    def distinct(self) -> int:
        """Number of different ids."""
        return sum(self.ids)

    def coverage(self, ranks: Any) -> np.ndarray:
        """Share of the references that go to the most popular so many ids."""
        at = np.concatenate([[0], np.cumsum(self.ids)])
        share = np.concatenate([[0.0], np.cumsum(self.references)])
        return np.interp(np.asarray(ranks, np.float64), at, share / max(share[-1], 1.0))


@dataclasses.dataclass(frozen=True)
class DenseStatistics:
    """A dense column: values that many rows share, and means over groups of the others, neighbors by value."""

    values: list[float]  # means of groups, or a value that all rows of the group share; increasing
    shares: list[float]  # share of the rows in each group
    exact: list[bool]  # whether all rows of the group share the value
    click_rate: list[float]  # share of clicks in each group, drawn towards the log's

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value of each group: halfway to the neighboring groups' means."""
        values, exact = np.asarray(self.values), np.asarray(self.exact, bool)
        low, high = values.copy(), values.copy()
        spread = np.flatnonzero(~exact)
        middle = (values[spread[1:]] + values[spread[:-1]]) / 2.0
        high[spread[:-1]], low[spread[1:]] = middle, middle
        return low, high

    def quantiles(self, shares: Any) -> np.ndarray:
        """Values below which given shares of the rows are."""
        return self.locate(np.asarray(shares, np.float64))[0]

    def locate(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(values, groups)` at given shares of the rows in [0, 1]."""
        steps = np.cumsum(self.shares)
        group = np.minimum(np.searchsorted(steps, shares, side="right"), len(steps) - 1)
        weights = np.asarray(self.shares)[group]
        within = np.clip((shares - steps[group] + weights) / weights, 0.0, 1.0)
        low, high = self.bounds()
        return low[group] + within * (high - low)[group], group

    def cdf(self, values: Any) -> np.ndarray:
        """Share of the rows at most so large."""
        low, high = self.bounds()
        at = np.asarray(values, np.float64)[:, None]
        width = high - low
        part = np.where(width > 0, np.clip((at - low) / np.where(width > 0, width, 1.0), 0.0, 1.0), at >= low)
        return part @ np.asarray(self.shares)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of a click log: what `measure` finds and `Twin` draws from.

    Args:
        schema: The log's schema: names of columns, vocabulary sizes, hotness.
        rows: How many rows were measured.
        threshold: The least number of rows or references behind every figure.
        click_rate: Share of clicks.
        auc: How well the sum of the columns' click rates tells clicks: what a twin can be told by.
        sparse: By sparse column.
        dense: By dense column.
        correlation: Between columns, dense ones first: of normal scores of the values, and of the ids' popularity.
    """

    schema: Schema
    rows: int
    threshold: int
    click_rate: float
    auc: float
    sparse: dict[str, SparseStatistics]
    dense: dict[str, DenseStatistics]
    correlation: list[list[float]]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        plain = ("rows", "threshold", "click_rate", "auc", "correlation")
        out = {"format": FORMAT, "version": VERSION, "schema": self.schema.to_dict()}
        out |= {name: getattr(self, name) for name in plain}
        out["sparse"] = {n: {**vars(c), "locality": c.locality.to_dict()} for n, c in self.sparse.items()}
        out["dense"] = {n: dict(vars(c)) for n, c in self.dense.items()}
        return out

    @classmethod
    def from_dict(cls, data: Any) -> Statistics:
        """Inverse of `to_dict`.

        Raises:
            ValueError: not the statistics of a log, of another version, or damaged.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"Statistics: not the statistics of a click log; they say format={FORMAT!r}.")
        if data.get("version") != VERSION:
            raise ValueError(f"Statistics: version {data.get('version')!r}; this release reads {VERSION}. Measure again.")
        try:
            sparse = {
                n: SparseStatistics(**{**c, "locality": StackProfile.from_dict(c["locality"])})
                for n, c in data["sparse"].items()
            }
            statistics = cls(
                schema=Schema.from_dict(data["schema"]),
                sparse=sparse,
                dense={n: DenseStatistics(**c) for n, c in data["dense"].items()},
                **{n: data[n] for n in ("rows", "threshold", "click_rate", "auc", "correlation")},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Statistics: damaged ({type(error).__name__}: {error}); measure again.") from error
        statistics._check()
        return statistics

    def _check(self) -> None:
        self.schema.require_fitted()
        if tuple(self.sparse) != self.schema.categorical_names or tuple(self.dense) != self.schema.dense_names:
            raise ValueError("Statistics: its columns are not those of its schema; measure again.")
        for name, column in self.sparse.items():
            size = len(column.ids)
            known = next(c for c in self.schema.categorical if c.name == name)
            whole = len(column.references) == len(column.click_rate) == size and min(column.ids, default=1) >= 1
            fits = len(column.lengths) == known.hotness + 1 and column.distinct <= int(known.vocabulary_size or 0)
            if not (whole and fits):
                raise ValueError(f"Statistics: the figures of column {name!r} do not fit each other; measure again.")
        for name, dense in self.dense.items():
            lengths = {len(dense.values), len(dense.shares), len(dense.exact), len(dense.click_rate)}
            if len(lengths) != 1 or lengths == {0} or min(dense.shares) <= 0.0:
                raise ValueError(f"Statistics: the figures of column {name!r} do not fit each other; measure again.")
        columns = len(self.dense) + len(self.sparse)
        if np.shape(self.correlation) != (columns, columns):
            raise ValueError(f"Statistics: the correlation must be {columns} x {columns}; measure again.")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, complete or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(self.to_dict()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Inverse of `save`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: as `from_dict`, naming the file.
        """
        try:
            return cls.from_dict(from_json(regular(path, "give statistics in JSON").read_bytes()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
