"""Figures of a report: what a model's predictions for a part of a log look like, as plain values of `report.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.metrics import grouped_auc, lift, permutation_importance, reliability, score_distribution
from keras_dlrm.schema.inference.single_column import auc_alone, rows_to_compare
from keras_dlrm.training.report_columns import check_columns
from keras_dlrm.training.slicing import Slicer, known_id

# Rows among which columns are shuffled, at most, and how often each is.
IMPORTANCE_ROWS, SHUFFLES = 20_000, 3
# Rows that tell a column from noise: where all columns cannot be shuffled among so many, some of them are.
_FEWEST = 250
# Predictions for the importance of columns that a run makes in any case, and their values (rows times columns): some seconds.
_CHEAP, _CHEAP_VALUES = 100_000, 4_000_000
# Columns that are sliced where none is named: the most important ones.
SLICED = 3


def analyze(
    model: Any, log: Any, name: str, probabilities: Any, batch_size: int, slice_by: Sequence[str] | None = None,
    group_by: str | None = None, seed: int = 0, predictions: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Figures behind the plots and tables of a report.

    Args:
        model: The model, for the importance of its columns.
        log: A `ClickLog`; the frequency of ids is counted in its training part, if it has one.
        name: Part that `probabilities` are for.
        probabilities: p(click) of its rows in file order, (N,).
        batch_size: Rows of a batch when the model predicts.
        slice_by: Columns whose values are scored one by one; `None`: the three most important ones.
        group_by: Column, such as the user, within whose values the AUC is taken.
        seed: Of the rows and shuffles of the importance.
        predictions: Rows to predict for the importance of columns, about, as of `affordable`; 0 leaves it out. `None`: as many as
            all columns take among 20,000 rows.

    Returns:
        JSON values: `part`, `parts` (rows of each), `reliability`, `lift`, `distribution`, `importance`, `slices` and, with
        `group_by`, `grouped_auc`.

    Raises:
        ValueError: a column does not exist or cannot be used, or the part has one class only.
    """
    check_columns(log.schema, slice_by, group_by)
    part = log.split(name)
    labels, weights = np.asarray(part.labels), part.sample_weights()
    bins = int(np.clip(len(labels) // 200, 5, 20))
    importance = _importance(model, part, batch_size, seed, predictions)
    if slice_by is None:
        slice_by = [entry["column"] for entry in importance["columns"] if entry["auc_drop"] > 0][:SLICED]
    figures = {
        "part": name,
        "parts": {other: len(log.split(other)) for other in log.splits},
        "reliability": _plain(reliability(labels, probabilities, bins, weights)),
        "lift": _plain(lift(labels, probabilities, 10, weights)),
        "distribution": _plain(score_distribution(labels, probabilities, 40, weights)),
        "importance": importance,
        "slices": Slicer(log, name, np.asarray(probabilities)).tables(slice_by),
    }
    if group_by is not None:
        figures["grouped_auc"] = grouped(part, group_by, np.asarray(probabilities))
    return figures


def affordable(schema: Any, rows: int) -> int:
    """Predictions for the importance of columns that take at most about a sixth of the time that training on `rows` rows took.

    Example:

    >>> from keras_dlrm.schema.schema import Schema
    >>> affordable(Schema(dense=["x", "y"]), 1000), affordable(Schema(dense=[f"x{i}" for i in range(400)]), 1000)
    (100000, 10000)
    """
    # Each is a third of a training step on a row.
    return max(min(_CHEAP, _CHEAP_VALUES // len(schema.column_names)), rows // 2)


def _plain(points: Any) -> dict[str, list[float]]:
    """A named tuple of arrays as lists by name."""
    names = type(points).__annotations__
    return {name: np.asarray(values, np.float64).tolist() for name, values in zip(names, points, strict=True)}


def _importance(model: Any, part: Any, batch_size: int, seed: int, predictions: int | None) -> dict[str, Any]:
    """Importance of columns on some rows of a part, both classes among them."""
    schema = part.schema
    names, most, columns = schema.column_names, IMPORTANCE_ROWS, None
    if predictions is not None:
        most = min(most, predictions // (SHUFFLES * len(names)))
        if 0 < predictions and most < min(_FEWEST, len(part)):
            most = min(_FEWEST, len(part))
            columns = _telling(part, max(predictions // (SHUFFLES * most), 1))
    rows = np.arange(len(part))
    if len(rows) > most:
        if most > batch_size:
            most -= most % batch_size  # whole batches: another shape of a batch is another compilation
        rows = np.sort(np.random.default_rng(seed).choice(len(part), most, replace=False))
    batch, labels = part.take(rows)
    weights = part.sample_weights(rows)
    counted = labels if weights is None else labels[weights > 0]
    if not 0 < counted.sum() < len(counted):
        return {"rows": len(rows), "of": len(names), "shuffles": 0, "columns": []}

    def predict(packed: dict[str, np.ndarray]) -> np.ndarray:
        parts = (slice(at, at + batch_size) for at in range(0, len(rows), batch_size))
        return np.concatenate([np.asarray(model.predict_on_batch({k: v[p] for k, v in packed.items()})) for p in parts])

    shuffled = permutation_importance(predict, schema, batch, labels, weights, SHUFFLES, seed, columns)
    return {"rows": len(rows), "of": len(names), "shuffles": SHUFFLES, "columns": shuffled}


def _telling(part: Any, most: int) -> list[str]:
    """Names of the columns of a part that tell most of its labels by themselves; of lists the first value is looked at."""
    schema, labels = part.schema, np.asarray(part.labels)
    rows = rows_to_compare(labels)
    if not len(rows):
        return list(schema.column_names[:most])
    batch, labels = part.take(rows)
    areas = {name: auc_alone(pl.Series(batch["dense"][:, i]), labels, False) for i, name in enumerate(schema.dense_names)}
    for column, start in zip(schema.categorical, schema.offsets, strict=True):
        areas[column.name] = auc_alone(pl.Series(batch["sparse"][:, start]), labels, True)
    return sorted(areas, key=lambda name: -areas[name])[:most]


def grouped(part: Any, column: str, probabilities: np.ndarray) -> dict[str, Any]:
    """AUC of a part's rows within the values of a column; rows without a known value are in no group.

    Returns:
        `{"column", "groups", "rows", "auc"}`: how many values and rows with one there are; the AUC is `None` where no value
        has both a click and a non-click.
    """
    labels, weights = np.asarray(part.labels), part.sample_weights()
    number = part.schema.categorical_names.index(column)
    ids = np.asarray(part.arrays()[0]["sparse"][:, part.schema.offsets[number]])
    known = known_id(part.schema.categorical[number], ids)
    figures: dict[str, Any] = {"column": column, "groups": len(np.unique(ids[known])), "rows": int(known.sum()), "auc": None}
    try:
        own = None if weights is None else weights[known]
        figures["auc"] = grouped_auc(labels[known], probabilities[known], ids[known], own)
    except ValueError:  # no value has both a click and a non-click
        pass
    return figures
