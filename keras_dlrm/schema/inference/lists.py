"""Columns of lists: of values, or texts with separators."""

from typing import Any

import polars as pl

from keras_dlrm.schema.columns import Categorical
from keras_dlrm.schema.inference.column import Column, Found, Kind

_LONG = 50  # a longer list is cut
_SHORT = 8  # lists of up to so many values are kept whole


def of_lists(column: Column) -> Found:
    """A column of lists."""
    kind: Any = column.values.dtype
    values = column.values.cast(pl.List(kind.inner))
    inner: Any = kind.inner
    if isinstance(inner, (pl.List, pl.Array, pl.Struct)):
        return "holds lists of lists or records; flatten them"
    if not (inner in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null) or inner.is_integer()):
        widths = values.list.len().unique().to_list()
        fix = f"add SemanticIds(…, of={column.name!r}, width={widths[0]}), or a ContentVector"
        fix = fix if len(widths) == 1 else "make them of one length"
        return f"holds lists of {inner}, such as an embedding; {fix}"
    lengths = values.list.len()
    if not lengths.max():
        return "holds nothing but empty lists"
    return _listed(column, lengths, values.explode().n_unique())


def of_texts(column: Column) -> Found | None:
    """A column of texts with `|` between values, or with another separator, or `None`."""
    for separator in "|", ",", ";":
        pieces = column.values.str.count_matches(separator, literal=True)
        if (pieces > 0).mean() < 0.2:  # type: ignore[operator]
            continue
        kinds = column.values.str.split(separator).explode().str.strip_chars().n_unique()
        if separator == "|" and kinds < max(column.kinds, 0.5 * int(pieces.sum())):
            return _listed(column, pieces + 1, kinds)
        if separator != "|" and column.kinds > 20 and kinds < 0.5 * column.kinds:
            shown = f"{column.values.filter(pieces > 0)[0]!r:.40}"
            return f"holds lists such as {shown}, separated by {separator!r}; separate them by '|', or make it a column of lists"
    return None


def _listed(column: Column, lengths: pl.Series, kinds: int) -> Kind:
    most, usual = int(lengths.max()), int(lengths.quantile(0.99) or 1)  # type: ignore[arg-type]
    hotness = most if most <= max(_SHORT, min(2 * usual, _LONG)) else max(min(usual, _LONG), 2)
    kept = "a longer one is cut" if hotness == most else f"the last {hotness} are kept"
    why = f"lists of up to {most} of {kinds:,} values; {kept}"
    return Kind(Categorical(column.name, hotness=hotness, combiner="mean", truncate="last"), why)
