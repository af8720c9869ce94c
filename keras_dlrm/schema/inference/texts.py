"""Columns of texts: categories, times, numbers, lists, or prose."""

import polars as pl

from keras_dlrm.schema.inference import lists, names, times
from keras_dlrm.schema.inference.column import Column, Found
from keras_dlrm.schema.inference.numbers import of_numbers

_WORDS = 6  # of a text that is no category, on average
_REPEATED = 20  # rows of each value, on average, of a long text that is one all the same
_LEADING_ZERO = r"^[-+]?0\d"
# A number with a currency, a percent sign, marks between thousands, a decimal comma or spaces.
_DRESSED = r"^\s*[-+]?[$€£¥]?\s?(\d{1,3}([.,' ]\d{3})+|\d+)([.,]\d+)?\s?[%$€£¥]?\s*$"
_LIST = r"^\s*[\[(].*[\])]\s*$"
_RECORD = r"^\s*\{.*\}\s*$"


def of_texts(column: Column) -> Found:
    """A column of texts, none of them empty."""
    texts = column.values
    if (moments := times.of_texts(texts)) is not None:
        return moments
    if not texts.str.contains(_LEADING_ZERO).any():
        if (found := _of_digits(column)) is not None:
            return found
    shown = f"{texts[0]!r:.40}"
    if texts.str.contains(_RECORD).all():
        return f"holds records such as {shown}; make each of their fields a column"
    if texts.str.contains(_LIST).all():
        return f"holds lists such as {shown}; make it a column of lists, or a|b|c in text files"
    if (found := lists.of_texts(column)) is not None:
        return found
    words: float = texts.str.count_matches(r"\S+").mean()  # type: ignore[assignment]
    if words > _WORDS and column.kinds * _REPEATED > len(column):
        return f"holds texts of {words:.0f} words on average, which are no categories"
    if column.names_rows:
        return column.left_out()
    return column.categorical("texts")


def _of_digits(column: Column) -> Found | None:
    """A column of texts that are numbers, perhaps but for some of them, or `None`."""
    texts = column.values.filter(column.values.str.to_lowercase() != "nan")
    whole = texts.str.replace(r"\.0+$", "")
    if whole.str.contains(r"^-?\d+$").all():
        numbers = whole.cast(pl.Int64, strict=False)
        if numbers.null_count():  # they have more digits than 64 bits can hold
            return column.left_out() if column.names_rows else column.categorical("whole numbers of many digits")
        return of_numbers(Column(column.name, numbers, column.rows, column.whole))
    floats = texts.cast(pl.Float64, strict=False)
    odd = texts.filter(floats.is_null())
    if not len(odd):
        # Hexadecimal digits such as 5e3210 are no numbers.
        hexadecimal = texts.str.contains(r"[eE]\d{3,}").any()
        return None if hexadecimal else of_numbers(Column(column.name, floats, column.rows, column.whole))
    if texts.str.contains(_DRESSED).all():
        return f"holds numbers such as {odd[0]!r:.30}; write them as 1234.5, without spaces, signs or marks"
    if (names.meaning(column.name) or ("",))[0] == "code" and column.kinds * _REPEATED <= len(column):
        return None  # codes some of which are letters
    if len(odd) < 0.5 * len(texts) and odd.n_unique() <= 3 and len(texts) - len(odd) >= 2:
        kinds = ", ".join(f"{value!r:.30}" for value in odd.unique(maintain_order=True))
        return f"holds numbers and {kinds}; if that means missing, leave the field empty or give --csv-null"
    return None
