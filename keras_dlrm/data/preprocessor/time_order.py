"""Order of times: dates, datetimes, ISO 8601 texts and numbers as whole numbers that compare as they do."""

import numpy as np
import polars as pl

from keras_dlrm.schema.time_parts import ISO

TIME = "must be a time, such as 2024-01-31, 2024-01-31T12:30:00Z or a number of seconds"
REASON = f"{TIME}; rows are put in order by it"
# Of keys: set in those of dates and texts, not in those of numbers, which cannot be compared with them.
DATED = np.uint64(1 << 63)
_MIDDLE = np.uint64(1 << 62)


def keys(values: pl.Series, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Times → keys, uint64 (n,), and which values are none, bool (n,).

    Args:
        values: Dates, datetimes (those of a time zone as of UTC), texts in ISO 8601 (without a zone as of UTC), or numbers, as
            numbers or as texts.
        who: What they are, for messages.

    Raises:
        TypeError: a column of another kind.

    Example:

    >>> found, lost = keys(pl.Series(["2024-01-31", "2024-01-31T01:00:00+02:00", "soon"]), "x")
    >>> bool(found[1] < found[0]), lost.tolist()
    (True, [False, False, True])
    """
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype in (pl.Date, pl.Datetime):
        return _of_moments(values.dt.timestamp("us"))
    if values.dtype.is_numeric():
        return _of_numbers(values.cast(pl.Float64).fill_nan(None))
    if values.dtype == pl.String:
        found, lost = _of_numbers(values.cast(pl.Float64, strict=False).fill_nan(None))
        if lost.any():
            rows = np.flatnonzero(lost)
            found[rows], lost[rows] = _of_moments(_moments(values.gather(rows)))
        return found, lost
    if values.dtype == pl.Null:
        return np.zeros(len(values), np.uint64), np.ones(len(values), bool)
    raise TypeError(f"{who} holds {values.dtype}, which is no time; it {REASON}.")


def seconds(values: pl.Series, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Times → whole seconds since 1970 in UTC, float64 (n,), NaN where missing, and which values are no times, bool (n,).

    Args:
        values: As of `keys`. Numbers are seconds below 10^11, thousandths below 10^14, millionths below 10^17, else billionths.
        who: What they are, for messages.

    Raises:
        TypeError: a column of another kind.

    Example:

    >>> found, lost = seconds(pl.Series(["2024-01-31T01:00:00+02:00", "1706704200000", "", "soon"]), "x")
    >>> found.tolist(), lost.tolist()
    ([1706655600.0, 1706704200.0, nan, nan], [False, False, False, True])
    """
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype in (pl.Date, pl.Datetime):
        whole = values.dt.timestamp("us") // 10**6
        return _floats(whole), np.zeros(len(values), bool)
    if values.dtype == pl.Null:
        return np.full(len(values), np.nan), np.zeros(len(values), bool)
    if values.dtype != pl.String and not values.dtype.is_numeric():
        raise TypeError(f"{who} holds {values.dtype}, which is no time; it {REASON}.")
    if values.dtype == pl.String:
        values = values.set(values == "", None)
    numbers = _floats(values.cast(pl.Float64, strict=False))
    with np.errstate(invalid="ignore"):
        unit = 10.0 ** (3 * np.searchsorted([1e11, 1e14, 1e17], np.abs(numbers), "right"))
    out = np.floor(numbers / unit)
    if values.dtype == pl.String:
        texts = np.flatnonzero(np.isnan(numbers))
        out[texts] = _floats(_moments(values.gather(texts)) // 10**6)
    return np.where(np.isfinite(out), out, np.nan), ~np.isfinite(out) & values.is_not_null().to_numpy()


def _floats(values: pl.Series) -> np.ndarray:
    return values.cast(pl.Float64).fill_null(float("nan")).to_numpy().copy()


def _of_numbers(numbers: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    floats = numbers.fill_null(float("nan")).to_numpy() + 0.0  # of the two zeros one
    bits = floats.view(np.uint64)
    ordered = np.where(bits >> np.uint64(63), ~bits, bits | DATED)
    return ordered >> np.uint64(1), ~np.isfinite(floats)


def _of_moments(microseconds: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    lost = microseconds.is_null().to_numpy()
    return microseconds.fill_null(0).to_numpy().astype(np.int64).view(np.uint64) + _MIDDLE | DATED, lost


def _moments(texts: pl.Series) -> pl.Series:
    """ISO 8601 as microseconds since 1970, null where a text is something else."""
    parts = texts.str.extract_groups(ISO).struct.unnest().get_columns()
    days = parts[0].str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    hour, minute, second = (part.cast(pl.Int64).fill_null(0) for part in parts[1:4])
    fraction = parts[4].str.pad_end(6, "0").cast(pl.Int64).fill_null(0)
    sign = (parts[5] == "-").fill_null(False).cast(pl.Int64) * -2 + 1
    offset = sign * (parts[6].cast(pl.Int64).fill_null(0) * 60 + parts[7].cast(pl.Int64).fill_null(0))
    seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second
    return (seconds * 10**6 + fraction).set((hour > 23) | (minute > 59) | (second > 60), None)
