"""Inference of a schema from rows of a table: a kind for each column, with the reason, and what to know of the rows."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.schema.columns import Categorical, Dense
from keras_dlrm.schema.inference.column import ENOUGH, Column, Found, Kind
from keras_dlrm.schema.inference.crosses import to_try
from keras_dlrm.schema.inference.labels import label_numbers
from keras_dlrm.schema.inference.lists import of_lists
from keras_dlrm.schema.inference.numbers import of_numbers
from keras_dlrm.schema.inference.sampling import Sample
from keras_dlrm.schema.inference.single_column import auc_alone, rows_to_compare
from keras_dlrm.schema.inference.texts import of_texts
from keras_dlrm.schema.inference.times import Times, of_moments
from keras_dlrm.schema.time_parts import SPARSE_PARTS, part_of

_MARKERS = ["?", "-", "na", "n/a", "nan", "null", "none", "\\n", "missing", "unknown"]
_WEIGHTS = {"weight", "weights", "sample_weight", "row_weight"}
_GIVEN_AWAY, _STRONG = 0.98, 0.9  # AUC of a single column


@dataclasses.dataclass
class Inferred:
    """Columns of a table: dense, sparse and left out.

    Args:
        dense: Dense columns.
        categorical: Sparse columns.
        reasons: Reason for each of them, by name.
        left_out: Columns that are none, with the reason.
        warnings: Sentences about the table as a whole.
        time: Column by whose values rows can be put in order.
        cut: Sentence on how to cut the rows into parts, where their order says so.
        soft_labels: Whether labels are between 0 and 1.
        rows: Number of rows of the table, where it is known.
        click_rates: Mean of each label in the rows that were looked at.
        crosses: Crossed columns to try, with the reason.
    """

    dense: list[Dense] = dataclasses.field(default_factory=list)
    categorical: list[Categorical] = dataclasses.field(default_factory=list)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    time: str | None = None
    cut: str | None = None
    soft_labels: bool = False
    rows: int | None = None
    click_rates: list[float] = dataclasses.field(default_factory=list)
    crosses: list[tuple[Categorical, str]] = dataclasses.field(default_factory=list)


# Values of one label, float (n,), and numbers of rows by which columns are compared with it.
_Label = tuple[np.ndarray, np.ndarray]


def infer(table: Sample, names: Sequence[str], sample_weight: str | None = None) -> Inferred:
    """The columns of a table besides its labels, called by their names. Crosses are looked for by the first one.

    Raises:
        KeyError: there is no such label or weight.
        ValueError: labels that are neither 0 and 1, true and false, nor numbers between; no column that can be used.
    """
    frame, source = table.frame, table.source
    for name in filter(None, (*names, sample_weight)):
        if name not in frame.columns:
            raise KeyError(f"infer: {source} has no column {name!r}; there are {frame.columns}.")
    every = [label_numbers(frame[name], name, source, may_miss=len(names) > 1) for name in names]
    labels = np.nan_to_num(every[0])
    if len(frame) < 2:
        raise ValueError(f"infer: {source} has one row, which says nothing about its columns; give some hundred.")
    soft = any(bool(((values > 0) & (values < 1)).any()) for values in every)
    inferred = Inferred(soft_labels=soft, rows=table.total, click_rates=[float(np.nanmean(values)) for values in every])
    whole = table.total is not None and len(frame) == table.total
    if not whole:
        inferred.warnings.append(f"Inferred from {len(frame):,} of {f'{table.total:,}' if table.total else 'more'} rows.")
    if len(frame) < 2 * ENOUGH:
        inferred.warnings.append(f"{len(frame)} rows say little about columns: check each line.")
    for name, numbers in zip(names, every, strict=True):
        if np.nanmin(numbers) == np.nanmax(numbers):
            which = "labels" if len(names) == 1 else f"labels {name!r}"
            inferred.warnings.append(f"All {which} are {np.nanmax(numbers):g}: a model has nothing to learn from these rows.")
    columns = [name for name in frame.columns if name not in (*names, sample_weight)]
    order, targets = _Order(), [(values, rows_to_compare(values)) for values in every]
    for name in columns:
        _add(inferred, name, frame[name], targets, whole, order)
    order.tell(inferred, frame[names[0]])
    order.make(inferred, frame.columns)
    values = {c.name: order.values[c.name] for c in inferred.categorical if c.name in order.values}
    inferred.crosses = to_try(values, labels, frame.columns)
    if not inferred.dense and not inferred.categorical:
        detail = "; ".join(f"{name}: {why}" for name, why in inferred.left_out.items()) or "the label is the only column"
        raise ValueError(f"infer: {source} has no column that a model can use ({detail}); write a schema by hand.")
    return inferred


def _add(
    inferred: Inferred, name: str, values: pl.Series, labels: Sequence[_Label], whole: bool, order: _Order
) -> None:
    """Take a column into account."""
    values = values.alias("value")  # `count` is the name of a column of counts
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype.is_float():
        values = values.fill_nan(None)
    if values.dtype == pl.String:
        values = values.set(values == "", None)
    where = values.is_not_null().to_numpy()
    column = Column(name, values.drop_nulls(), len(values), whole)
    kind = of_column(column)
    if isinstance(kind, Times):
        inferred.left_out[name] = kind.why
        if _auc_alone(pl.Series(where.astype(np.int64)), labels, False) < _STRONG:  # not the time of the click itself
            order.made.append((name, kind))
            order.add_parts(name, kind, where)
        if where.all() and column.kinds > 1:
            order.times.append((name, kind))
        return
    if isinstance(kind, str):
        inferred.left_out[name] = kind
        return
    sparse = isinstance(kind.column, Categorical)
    auc = _auc_alone(values, labels, sparse)
    if auc >= _GIVEN_AWAY:
        inferred.left_out[name] = (
            f"gives the label away, with AUC {auc:.3f} by itself; add it if it is known before the click"
        )
        inferred.warnings.append(f"Column {name!r} was left out: it gives the label away.")
        return
    if auc >= _STRONG:
        inferred.warnings.append(
            f"Column {name!r} has AUC {auc:.3f} by itself: leave it out unless it is known before the click."
        )
    if not sparse and name.lower() in _WEIGHTS:
        inferred.warnings.append(
            f"Column {name!r} is taken for an amount: if it says how much a row counts, make it the schema's sample_weight."
        )
    missing = 1 - len(column) / len(values)
    share = "" if not missing else f"; {missing:.0%} missing" if missing >= 0.005 else "; a few missing"
    inferred.reasons[name] = kind.why + share
    if kind.unsure:
        order.unsure.append(name)
    if column.values.dtype == pl.String and sparse:
        order.markers |= set(column.values.filter(column.values.str.to_lowercase().str.strip_chars().is_in(_MARKERS)))
    if sparse and not kind.column.multi_hot:  # type: ignore[union-attr]
        order.values[name] = values
        order.look(column)
    (inferred.categorical if sparse else inferred.dense).append(kind.column)  # type: ignore[arg-type]


def _auc_alone(values: pl.Series, labels: Sequence[_Label], sparse: bool) -> float:
    """AUC of a column by itself, of the label that it tells the most of."""
    return max(auc_alone(values[rows], label[rows], sparse) if len(rows) else 0.5 for label, rows in labels)


def of_column(column: Column) -> Found:
    """Kind of a column by its values, or the reason to leave it out."""
    values = column.values
    if not len(values):
        return f"has no value in {column.rows:,} rows"
    kind: Any = values.dtype
    if isinstance(kind, (pl.List, pl.Array)):
        return of_lists(column)
    if isinstance(kind, pl.Struct):
        return f"holds records of {', '.join(field.name for field in kind.fields)[:60]}; make each of them a column"
    if kind in (pl.Date, pl.Datetime):
        return of_moments(values)
    if not (kind in (pl.String, pl.Boolean) or kind.is_numeric()):
        return f"holds {kind}; make it a number or a text"
    if column.kinds == 1:
        shown = f"{values[0]!r:.30}"
        return (
            Kind(Categorical(column.name), f"{shown} or nothing") if len(values) < column.rows else f"is always {shown}"
        )
    if kind == pl.Boolean:
        return Kind(Categorical(column.name), "true or false")
    return of_texts(column) if kind == pl.String else of_numbers(column)


class _Order:
    """Order of the rows, and questions about some columns, as sentences for the reader of a schema."""

    def __init__(self) -> None:
        self.times: list[tuple[str, Times]] = []
        self.made: list[tuple[str, Times]] = []
        self.unsure: list[str] = []
        self.markers: set[str] = set()
        self.values: dict[str, pl.Series] = {}  # of sparse columns, one a row
        self._sorted: str | None = None

    def look(self, column: Column) -> None:
        """See whether rows of one value stand together, as in a log that is sorted by user."""
        runs = int((column.values != column.values.shift()).sum()) + 1
        if self._sorted is None and column.kinds > 20 and runs < 1.2 * column.kinds and 2 * column.kinds < len(column):
            self._sorted = column.name

    def add_parts(self, source: str, times: Times, where: np.ndarray) -> None:
        """Values of the sparse columns that are made of times, which are `where` there are some."""
        if times.seconds is not None and len(times.seconds) == where.sum():
            for part in set(times.parts) & set(SPARSE_PARTS):
                values = np.full(len(where), np.nan)
                values[where] = part_of(part, times.seconds)
                self.values[f"{source}_{part}"] = pl.Series(values, nan_to_null=True)

    def make(self, inferred: Inferred, names: Sequence[str]) -> None:
        """Add columns that are made of times: days of those alone that do not order the rows, whose order says it."""
        for source, times in self.made:
            for part in times.parts:
                name = f"{source}_{part}"
                if name in names or (part == "days" and source == inferred.time):
                    continue
                inferred.reasons[name] = f"{part} of {source}" + (", UTC" if part == "hour" else "")
                if part == "days":
                    recent = Dense(name, "distinct_quantile", encoding="piecewise_linear", of=source, part=part)
                    inferred.dense.append(recent)
                else:
                    inferred.categorical.append(Categorical(name, of=source, part=part))

    def tell(self, inferred: Inferred, labels: pl.Series) -> None:
        """Add the sentences."""
        if self.unsure:
            listed = ", ".join(map(repr, self.unsure[:8])) + (
                f" and {len(self.unsure) - 8} more" if self.unsure[8:] else ""
            )
            inferred.warnings.append(
                f"Whole numbers in {listed} are taken as amounts: make them categorical if they are codes."
            )
        if self.markers:
            shown = " ".join(f"--csv-null {shlex.quote(marker)}" for marker in sorted(self.markers))
            inferred.warnings.append(f"Some texts look like missing values: give {shown} if they are.")
        sortable = [entry for entry in self.times if entry[1].sorts]
        cut = "cut them with --fractions 0.8 0.1 0.1"
        if sortable:
            inferred.time, times = sortable[0]
            if times.ascending:
                inferred.cut = f"Rows are in the order of {inferred.time!r}: {cut}, as they are."
            else:
                inferred.cut = f"Rows have a time: {cut} --split-by {shlex.quote(inferred.time)}."
        elif self._sorted is not None:
            inferred.cut = f"Rows are sorted by {self._sorted!r}: {cut} --split-by random."
        elif len(labels) >= ENOUGH and int((labels != labels.shift()).sum()) == 1 < min(labels.sum(), (1 - labels).sum()):
            inferred.cut = f"Rows are sorted by the label: {cut} --split-by random."
