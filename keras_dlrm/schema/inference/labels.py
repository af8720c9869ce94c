"""Labels of a table, and how to make 0 and 1 of what is neither."""

import numpy as np
import polars as pl

_CLICKS = frozenset("yes y t click clicked positive pos good true won 1".split())


def label_numbers(values: pl.Series, name: str, source: str, may_miss: bool = False) -> np.ndarray:
    """Labels as numbers from 0 to 1, NaN where one is missing and `may_miss` allows it.

    Raises:
        ValueError: a label is missing, or something else; the message has the expression that makes 0 and 1 of it.

    Example:

    >>> label_numbers(pl.Series(["True", "false"]), "click", "the frame").tolist()
    [1.0, 0.0]
    """
    who = f"infer: label {name!r} of {source}"
    if values.dtype == pl.String:
        values = values.set(values == "", None)
        flags = values.str.to_lowercase().replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)
        if (flags.is_null() & values.is_not_null()).any():
            raise ValueError(f"{who} {_of_texts(values.drop_nulls(), name)}")
    elif values.dtype == pl.Boolean or values.dtype.is_numeric():
        flags = values.cast(pl.Float64)
    else:
        raise ValueError(f"{who} holds {values.dtype}; make it 0 and 1.")
    numbers = flags.fill_null(float("nan")).to_numpy()
    missing = int(np.isnan(numbers).sum())
    if missing and (not may_miss or missing == len(numbers)):
        raise ValueError(f"{who}: {missing:,} of {len(numbers):,} rows have no label; drop these rows.")
    if ((numbers < 0) | (numbers > 1)).any():
        kinds, middle = np.unique(numbers), np.sort(numbers)[len(numbers) // 2]
        low, high = kinds[0], kinds[-1]
        if len(kinds) == 2:
            raise ValueError(f"{who} holds {low:g} and {high:g}; make them 0 and 1, as by frame[{name!r}] == {high:g}.")
        which = f"say which of them are a click, as by frame[{name!r}] >= {middle:g}"
        raise ValueError(f"{who} holds numbers from {low:g} to {high:g}; {which}.")
    return numbers


def _of_texts(texts: pl.Series, name: str) -> str:
    counts = texts.alias("text").value_counts()
    kinds = counts.sort("count", "text", descending=[True, False])["text"].to_list()
    shown = " and ".join(map(repr, kinds)) if len(kinds) == 2 else f"texts such as {', '.join(map(repr, kinds[:3]))}"
    click = next((kind for kind in kinds if kind.lower() in _CLICKS), kinds[-1])
    if len(kinds) > 2:
        return f"holds {shown}; say which of them are a click, as by frame[{name!r}] == {click!r}."
    return f"holds {shown}; make {click!r} 1 and the other 0, as by frame[{name!r}] == {click!r}."
