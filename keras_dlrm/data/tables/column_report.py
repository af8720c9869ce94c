"""Column report of raw rows: what is missing, what no model sees, and what a transform makes of odd numbers."""

from typing import Any

import polars as pl

from keras_dlrm.schema.crosses import own
from keras_dlrm.schema.inference.sampling import Sample
from keras_dlrm.schema.schema import Dense, Schema
from keras_dlrm.schema.time_parts import raw_names
from keras_dlrm.schema.vectors import vectors

# A value is far out beyond so many times the 99th percentile of the absolute values.
_FAR = 100


def column_report(schema: Schema, rows: Sample) -> list[dict[str, Any]]:
    """A row for each column of a schema, and for each that it leaves out: kind, share missing, note.

    Example:

    >>> schema = Schema(dense=[kd.Dense("price", transform="log1p")], label="click")
    >>> from keras_dlrm.schema.inference.sampling import sample
    >>> found = column_report(schema, sample({"price": [1.0, -2.0, None, 3.0], "click": [0, 1, 0, 1], "id": [1, 2, 3, 4]}))
    >>> found[0]["missing"], found[0]["note"], found[1]["column"], found[1]["kind"]
    ('25.0%', '33.3% below 0 become 0', 'id', 'not used')
    """
    frame = rows.frame
    report = []
    for column in (*schema.dense, *own(schema.categorical)):
        if column.name not in frame.columns:
            continue
        values = frame[column.name]
        row: dict[str, Any] = {"column": column.name, "kind": "dense" if isinstance(column, Dense) else "sparse"}
        row["missing"] = f"{_missing(values):.1%}"
        row["note"] = _note(column, values) if isinstance(column, Dense) else ""
        report.append(row)
    for name in vectors(schema):
        if name in frame.columns:
            report.append({"column": name, "kind": "vector", "missing": f"{_missing(frame[name]):.1%}", "note": ""})
    used = {*raw_names(schema), *schema.row_names}
    for name in frame.columns:
        if name not in used:
            report.append({"column": name, "kind": "not used", "missing": f"{_missing(frame[name]):.1%}"})
    return report


def _missing(values: pl.Series) -> float:
    """Share of the values that are missing; an empty list is."""
    return _share(_absent(values))


def _share(flags: pl.Series) -> float:
    return int(flags.sum()) / max(len(flags), 1)


def _absent(values: pl.Series) -> pl.Series:
    absent = values.is_null()
    if values.dtype == pl.String:
        return absent | (values.str.len_bytes() == 0).fill_null(True)
    if values.dtype.is_float():
        return absent | values.is_nan().fill_null(True)
    if isinstance(values.dtype, pl.List):
        return absent | (values.list.len() == 0).fill_null(True)
    return absent


def _note(column: Dense, values: pl.Series) -> str:
    """Note about numbers below 0 and about those that are far out, for a transform that they do not suit."""
    numbers = values.cast(pl.Float64, strict=False).drop_nulls().drop_nans()
    if not len(numbers):
        return ""
    below = _share(numbers < 0)
    if column.transform in ("log1p", "log1p_standardize") and below:
        return f"{below:.1%} below 0 become 0"
    sizes = numbers.abs()
    usual, largest = float(sizes.quantile(0.99) or 0.0), float(sizes.max() or 0.0)  # type: ignore[arg-type]
    if column.transform in ("none", "standardize") and 0 < _FAR * usual < largest:
        return f"up to {largest:.3g}, 99% within {usual:.3g}: try quantile"
    return ""
