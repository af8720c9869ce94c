"""Columns of numbers: amounts, codes, times, or names of rows."""

import dataclasses

import numpy as np
import polars as pl

from keras_dlrm.schema.columns import PADDING, Dense
from keras_dlrm.schema.inference import names, times
from keras_dlrm.schema.inference.column import Column, Found, Kind

_EXACT = 2**53  # a float cannot hold all whole numbers from here on
_FEW = 10  # whole numbers of so few kinds are categories
_LARGE = 10**6  # that repeat are ids
_OFTEN = 20  # rows of each of few kinds, at least


def of_numbers(column: Column) -> Found:
    """A column of numbers, by its values and its name."""
    values = column.values
    numbers = values.cast(pl.Float64).to_numpy()
    finite = np.isfinite(numbers)
    if not finite.all():
        return _of_the_finite(column, finite)
    if (numbers != np.round(numbers)).any():
        # Of seconds with a fraction no parts are made; they order the rows.
        moments = times.of_numbers(column.name, np.floor(numbers)) if names.time(column.name) else None
        return _dense(column, "numbers with a fraction") if moments is None else dataclasses.replace(moments, parts=())
    moments = times.of_numbers(column.name, numbers) if column.kinds > 2 else None
    if moments is not None:
        return moments
    said = names.meaning(column.name)
    kind, word = said or ("", "")
    if column.names_rows and (kind == "code" or _counts_rows(numbers) or np.abs(numbers).max() >= _EXACT):
        return column.left_out()
    if np.abs(numbers).max() >= _EXACT:
        return column.categorical("whole numbers that a float cannot hold")
    if column.kinds == 2 or (kind != "code" and _few(column) and not names.numbered(column.name)):
        return column.categorical("two kinds of numbers" if column.kinds == 2 else "few kinds of numbers")
    if kind == "amount":
        return _dense(
            column, f"an amount, by {word!r} in its name" if word != column.name else "an amount, by its name"
        )
    codes = numbers[numbers != PADDING]
    low, high = codes.min(), codes.max()
    if low > 2 * (high - low) + 10 and column.kinds > 0.5 * min(high - low + 1, len(numbers) ** 0.5):
        return column.categorical(f"codes from {low:.0f} to {high:.0f}, all far from 0")
    if kind == "code":
        return column.categorical(f"a code, by {word!r} in its name" if word != column.name else "a code, by its name")
    if low < 0:
        return _dense(column, "numbers, some of them negative")
    if high > _LARGE and column.kinds < 0.5 * len(numbers) and np.median(numbers) > 0.01 * high:
        return column.categorical(f"whole numbers up to {high:.0f} that repeat, as ids do")
    return _dense(column, "whole numbers, perhaps codes", unsure=True)


def _of_the_finite(column: Column, finite: np.ndarray) -> Found:
    """A column of numbers some of which are infinite, by the others. Infinite values of a dense column are missing ones."""
    infinite = f"infinite in {int((~finite).sum()):,} rows"
    kind = of_numbers(dataclasses.replace(column, values=column.values.filter(finite))) if finite.any() else "has no finite value"
    if isinstance(kind, str):
        return kind
    if not isinstance(kind, Kind):
        return f"a time, but {infinite}; make these missing values"
    stand = "count as missing" if isinstance(kind.column, Dense) else "are a value of their own"
    return dataclasses.replace(kind, why=f"{kind.why}; {infinite}, which {stand}")


def _few(column: Column) -> bool:
    """True for few kinds, each of them often: the large values of a count are rare."""
    return column.kinds <= _FEW and int(column.values.value_counts()["count"].min()) >= _OFTEN  # type: ignore[arg-type]


def _counts_rows(numbers: np.ndarray) -> bool:
    steps = np.diff(numbers)
    return bool(np.median(steps) == 1 and (steps > 0).mean() > 0.9)


def _dense(column: Column, why: str, unsure: bool = False) -> Kind:
    """A dense column. Quantiles suit any shape of its values, also those with a few far from the others."""
    return Kind(Dense(column.name, "distinct_quantile", encoding="piecewise_linear"), why, unsure)
