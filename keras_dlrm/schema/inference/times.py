"""Times in a column: dates and times as text, seconds since 1970, and calendar digits such as 20240131."""

import dataclasses

import numpy as np
import polars as pl

from keras_dlrm.schema.inference import names
from keras_dlrm.schema.time_parts import ISO

_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?$"
# Texts that can be dates at all, and ways to write one besides ISO 8601.
_DATED = r"^\d{1,4}[-/. ]\w{1,9}[-/., ]+\d{1,4}|^\w{3,9} \d{1,2},? \d{4}"
_FORMATS = tuple(
    date + time
    for date in ("%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%m %d, %Y", "%d/%b/%Y", "%d-%b-%Y",
                 "%d %b %Y", "%b %d, %Y", "%d-%b-%y")
    for time in ("", " %H:%M:%S", " %H:%M", ":%H:%M:%S %z")
)  # fmt: skip
# Seconds of the years 2000 to 2100; the same in thousandths, millionths and billionths.
_EARLIEST, _LATEST = 946_684_800, 4_102_444_800
_UNITS = (1, 10**3, 10**6, 10**9)
# Digits of a calendar, by their number.
_CALENDAR = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_SHORT_YEAR = {8: "%y%m%d%H", 10: "%y%m%d%H%M"}
_YEARS = 20  # of a log, at most
_FEW, _MANY = 3, 20  # hours, days


@dataclasses.dataclass(frozen=True)
class Times:
    """A column of times.

    Args:
        why: What they are, in words.
        sorts: Whether `--split-by` can put rows in their order as they are written.
        ascending: Whether rows are in their order already.
        parts: Parts of them that columns can be made of.
        seconds: Seconds since 1970 of each, float64, NaN where it is no time, where there are parts.
    """

    why: str
    sorts: bool = True
    ascending: bool = False
    parts: tuple[str, ...] = ()
    seconds: np.ndarray | None = dataclasses.field(default=None, compare=False)


def of_moments(times: pl.Series, sorts: bool = True) -> Times:
    """Dates or datetimes."""
    written = "it orders the rows" if sorts else "written as 2024-01-31 it would order the rows"
    first, last = str(times.min()), str(times.max())
    seconds = times.dt.timestamp("us").cast(pl.Float64).fill_null(float("nan")).to_numpy() // 10**6
    return Times(f"a time, from {first} to {last}; {written}", sorts, times.is_sorted(), _parts(times) if sorts else (), seconds)


def _parts(times: pl.Series) -> tuple[str, ...]:
    """Parts of times that tell rows apart: hours where there are some, weekdays of two weeks or more, days of many."""
    days = times.dt.date()
    hours = times.dtype != pl.Date and times.dt.hour().n_unique() > _FEW
    weekdays = (days.max() - days.min()).days >= 14 and days.dt.weekday().n_unique() > 1  # type: ignore[operator, union-attr]
    telling = {"hour": hours, "weekday": weekdays, "days": days.n_unique() > _MANY}
    return tuple(part for part, tells in telling.items() if tells)


def of_texts(texts: pl.Series) -> Times | None:
    """Dates or times as text, or `None`: other texts.

    Example:

    >>> of_texts(pl.Series(["31.01.2024", "01.02.2024"])).why
    'a time, from 2024-01-31 00:00:00 to 2024-02-01 00:00:00; written as 2024-01-31 it would order the rows'
    """
    if not texts.str.contains(_DATED).all():
        return None
    iso = bool(texts.str.contains(_ISO).all())
    for form in (None,) if iso else _FORMATS:
        try:
            moments = texts.str.to_datetime(form, strict=False)
        except pl.exceptions.PolarsError:
            continue
        if moments.null_count() <= 0.001 * len(texts) and (iso or _plausible(moments)):
            times = of_moments(moments, sorts=iso)
            return times if texts.str.contains(ISO).all() else dataclasses.replace(times, parts=())
    return None


def of_numbers(name: str, numbers: np.ndarray) -> Times | None:
    """Whole numbers that stand for times, by the column's name or because they ascend, or `None`."""
    low, high = numbers.min(), numbers.max()
    ascending = bool((np.diff(numbers) >= 0).all())
    for unit in _UNITS:
        if _EARLIEST * unit <= low and high < _LATEST * unit:
            of_a_log = 60 * unit < high - low < _YEARS * 365 * 86400 * unit
            if names.time(name) or (ascending and of_a_log and names.meaning(name) is None):
                return of_moments(pl.Series(numbers / unit * 1e6).cast(pl.Int64).cast(pl.Datetime("us")))
    if (moments := _calendar(name, numbers)) is not None:
        return dataclasses.replace(of_moments(moments), parts=())  # a preprocessor reads them as seconds
    if names.moment(name) and low < high:
        return Times(f"a time, counted from {low:.0f} to {high:.0f}; it orders the rows", True, ascending)
    return None


def _calendar(name: str, numbers: np.ndarray) -> pl.Series | None:
    """Digits of a calendar as datetimes: 20240131 of any name, others where the name is that of a time."""
    low, high = int(numbers.min()), int(numbers.max())
    width = len(str(low))
    if low < 0 or len(str(high)) != width or width not in _CALENDAR:
        return None
    digits = pl.Series(numbers).cast(pl.Int64).cast(pl.String)
    named = (_CALENDAR.get(width), _SHORT_YEAR.get(width)) if names.time(name) else ()
    for form in named or (_CALENDAR[8],) * (width == 8):
        if form:
            # A minute has to be there where there is an hour.
            more = ("00", "%M") if form.endswith("%H") else ("", "")
            moments = (digits + more[0]).str.to_datetime(form + more[1], strict=False)
            if moments.null_count() == 0 and _plausible(moments):
                return moments
    return None


def _plausible(moments: pl.Series) -> bool:
    return bool(moments.dt.year().is_between(1900, 2100).all())
