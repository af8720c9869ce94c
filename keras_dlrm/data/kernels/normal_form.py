"""The normal form of a raw value, which decides its id in every file, frame and request.

- Text is its own normal form, but for whole numbers written as floats (`3.0` is `3`, `-0.0` is `0`), and booleans in any
  case (`True` and `TRUE` are `true`). `+3`, `007`, `2.50` and `1e3` stay as they are.
- A whole number of any type (integer, float, decimal) is its digits; another number is its shortest digits (`2.5`), below
  0.00001 with an exponent (`2.5e-6`).
- A boolean is `true` or `false`.
- None, NaN, pandas' NA and NaT, a masked value and the empty text are missing.

`column` and `texts` work on columns, `text` on one value; `export.tensorflow_columns` does what `texts` does with strings
inside a graph.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence, Set
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.support.arguments import is_list
from keras_dlrm.support.values import as_list, is_missing, is_number

# Patterns that Polars and TensorFlow read the same way; digits are those of any script. Of a whole number, the groups stay.
WHOLE = r"^(?:-(0)|([+-]?\p{Nd}+))\.0+$"
BOOLEAN = r"^(?:[tT][rR][uU][eE]|[fF][aA][lL][sS][eE])$"
TRUE, FALSE = "true", "false"
# Whole floats up to here are written as digits, as integers of the same value are.
_WIDEST = 2.0**127
_EXACT = 2**53
# Floats of 64 bits are written with an exponent here; those of 32 bits and decimals are not, or not yet.
_TINY = r"^(-?)0\.(0{5,})([1-9])(\d*)$"
_ROWS = (list, tuple, np.ndarray)


def texts(values: pl.Series, who: str) -> pl.Series:
    """Values → their normal forms, null where missing.

    Args:
        values: Texts, numbers or booleans.
        who: What they are, for messages.

    Raises:
        TypeError: neither texts, numbers nor booleans.

    Example:

    >>> import polars as pl
    >>> texts(pl.Series(["3.0", "TRUE", "007", ""]), "x").to_list(), texts(pl.Series([3.0, 2.5]), "x").to_list()
    (['3', 'true', '007', None], ['3', '2.5'])
    """
    dtype = values.dtype
    if dtype == pl.String or dtype in (pl.Categorical, pl.Enum):
        return _of_texts(values.cast(pl.String))
    if dtype.is_float():
        values = values.fill_nan(None)
        whole = (values == values.round()) & (values.abs() < _WIDEST)
        digits = values.set(~whole, None).cast(pl.Int128).cast(pl.String)
        return digits.fill_null(_shortest(values.cast(pl.String)))
    if dtype.is_decimal():
        # As many digits behind the point as the column has; the last ones may be zeros.
        plain = values.cast(pl.String).str.replace(r"^(-?\d+(?:\.\d*[1-9])?)\.?0*$", "${1}")
        return _shortest(plain.str.replace("^-0$", "0"))
    if dtype.is_integer() or dtype in (pl.Boolean, pl.Null):
        return values.cast(pl.String)
    raise TypeError(f"{who} has dtype {dtype}; a vocabulary holds strings, numbers or booleans.")


def _shortest(digits: pl.Series) -> pl.Series:
    tiny = digits.str.contains(_TINY)
    if not tiny.any():
        return digits
    rows = tiny.fill_null(False).arg_true()
    sign, zeros, first, rest = digits.gather(rows).str.extract_groups(_TINY).struct.unnest().get_columns()
    exponent = (zeros.str.len_bytes() + 1).cast(pl.String)
    point = pl.Series(["."]).new_from_index(0, len(rows)).set(rest == "", "")
    return digits.scatter(rows, sign + first + point + rest + "e-" + exponent)


def _of_texts(text: pl.Series) -> pl.Series:
    if text.str.ends_with("0").any():
        text = text.str.replace(WHOLE, "${1}${2}")
    flags = text.str.contains(BOOLEAN)
    if flags.any():
        flags = flags.fill_null(False)
        text = text.scatter(flags.arg_true(), text.filter(flags).str.to_lowercase())
    return text.set(text == "", None)


def text(value: Any) -> str | None:
    """A Python or NumPy value as text that `texts` takes for the same value; `None` where it is missing.

    Raises:
        TypeError: neither text, number nor boolean.

    Example:

    >>> [text(value) for value in (3.0, True, Decimal("2.50"), "True", None)]
    ['3', 'true', '2.5', 'True', None]
    """
    if isinstance(value, str):
        return str.__str__(value)  # of a member of an enumeration, which `str` gives the name of
    if isinstance(value, (bool, np.bool_)):
        return TRUE if value else FALSE
    if is_missing(value):
        return None
    if not is_number(value):
        raise TypeError(f"{value!r} of type {type(value).__name__} is neither text, number nor boolean")
    if isinstance(value, Decimal):
        plain = format(value, "f")
        plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
        return "0" if plain == "-0" else _shortest(pl.Series([plain])).item()
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if float(value).is_integer() and abs(float(value)) < _WIDEST:
        return str(int(value))
    narrow = isinstance(value, (np.float16, np.float32))
    digits = pl.Series([float(value)], dtype=pl.Float32 if narrow else pl.Float64).cast(pl.String)
    return str(_shortest(digits).item())


def column(name: str, values: Any) -> pl.Series:
    """A column of any kind as a Polars series. Values of several kinds become text, each by itself.

    Args:
        name: Its name.
        values: Python values or lists of them, a NumPy array (of one or two dimensions, perhaps masked), or a column of
            Polars, pandas or Arrow.

    Raises:
        TypeError: a value that is neither text, number nor boolean.
        ValueError: text that is none.

    Example:

    >>> column("u", [2**53 + 1, 2.5, "a", None]).to_list()
    ['9007199254740993', '2.5', 'a', None]
    >>> column("u", np.ma.array([3, 4], mask=[True, False])).to_list()
    [None, 4]
    """
    if isinstance(values, Set) or not is_list(values):  # a set has no order of rows
        fix = "give a sequence, one entry a row, such as [3.5]"
        raise TypeError(f"column {name!r} is {values!r:.60}, a {type(values).__name__}; {fix}.")
    if isinstance(values, pl.Series):
        return _of_values(name, values.to_list()) if values.dtype == pl.Object else values.alias(name)
    if hasattr(values, "isna") and hasattr(values, "dtype"):
        return _of_pandas(name, values)
    if isinstance(values, np.ndarray):
        return _of_array(name, values)
    if isinstance(values, (list, tuple)):
        return _of_values(name, values)
    if hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__"):
        return pl.Series(name, values)
    if hasattr(values, "__array__"):
        return _of_array(name, np.asarray(values))
    return _of_values(name, list(values))


def _of_pandas(name: str, values: Any) -> pl.Series:
    """A pandas column; its own conversion to NumPy makes floats of large integers that stand alongside missing ones."""
    kind = values.dtype
    if hasattr(kind, "categories"):
        values = values.array if hasattr(values, "array") else values
        codes = pl.Series(np.asarray(values.codes).astype(np.int64))
        return column(name, values.categories).gather(codes.set(codes < 0, None)).alias(name)
    plain = kind if isinstance(kind, np.dtype) else getattr(kind, "numpy_dtype", None)
    if isinstance(kind, np.dtype):
        return _of_array(name, values.to_numpy())
    if plain is not None and plain.kind in "biuf":
        missing = np.asarray(values.isna())
        found = _of_array(name, values.to_numpy(dtype=plain, na_value=plain.type(0)))
        return found.set(pl.Series(missing), None) if missing.any() else found
    return _of_values(name, values.tolist())


def _of_array(name: str, values: np.ndarray) -> pl.Series:
    if np.ma.is_masked(values) and values.dtype.kind in "biuf" and values.ndim == 1:
        return _of_array(name, np.ma.getdata(values)).set(pl.Series(np.ma.getmaskarray(values)), None)
    if values.dtype.kind in "OT" or np.ma.is_masked(values):  # T: NumPy's texts of variable width
        return _of_values(name, as_list(values))
    values = np.ma.getdata(values)
    if values.dtype.kind not in "biufUS":
        raise TypeError(f"column {name!r} has dtype {values.dtype}; give texts, numbers or booleans.")
    if values.dtype in (np.float16, np.longdouble):
        values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    try:
        return pl.Series(name, values)
    except UnicodeEncodeError as error:
        raise _no_text(name, error) from None


def _is_row(value: Any) -> bool:
    return isinstance(value, _ROWS) and value is not np.ma.masked


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    return itertools.chain.from_iterable(_leaves(v) if type(v) is list else (v,) for v in values)


def _of_values(name: str, values: Sequence[Any]) -> pl.Series:
    nested = any(map(_is_row, values))
    if nested:
        values = [None if not _is_row(value) and is_missing(value) else value for value in as_list(values)]
    flat = list(_leaves(values)) if nested else values
    dtype = _common(flat)
    if dtype is None:
        values, dtype = [_text(name, value) for value in values], pl.String
    try:
        return pl.Series(name, values, dtype=pl.List(dtype) if nested else dtype)
    except UnicodeEncodeError as error:
        raise _no_text(name, error) from None
    except TypeError:
        raise TypeError(f"column {name!r} has lists alongside single values; make each row a list.") from None


def _no_text(name: str, error: UnicodeEncodeError) -> ValueError:
    return ValueError(f"column {name!r} holds half of a surrogate pair, which is not a text ({error}).")


def _common(values: Sequence[Any]) -> Any:
    """The Polars type that holds all values as they are, or `None`."""
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pl.Null
    for kind, dtype in ((str, pl.String), (bool, pl.Boolean)):
        if kinds == {kind}:
            return dtype
    if kinds <= {int, float}:
        integers = [value for value in values if type(value) is int] if int in kinds else [0]
        least, most = min(integers), max(integers)
        if float in kinds:
            return pl.Float64 if -_EXACT <= least and most <= _EXACT else None
        return pl.Int64 if -(2**63) <= least and most < 2**63 else None
    return None


def _text(name: str, value: Any) -> Any:
    if type(value) is list:
        return [_text(name, entry) for entry in value]
    try:
        return text(value)
    except TypeError as error:
        raise TypeError(f"column {name!r}: {error}.") from None
