"""Parts of times inside a TensorFlow graph, from texts, as `data.preprocessor.time_order` and `schema.time_parts` find them."""

from typing import Any

import tensorflow as tf

from keras_dlrm.schema.columns import PADDING, Categorical, Dense
from keras_dlrm.schema.time_parts import ISO

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def seconds(texts: Any) -> Any:
    """Texts (B,) → whole seconds since 1970, float64 (B,), NaN where missing, or no time: the host refuses these."""
    is_number, is_date = (tf.strings.regex_full_match(texts, pattern) for pattern in (_NUMBER, ISO))
    numbers = tf.strings.to_number(tf.where(is_number, texts, "0"), tf.float64)
    size = tf.abs(numbers)
    unit = tf.where(size < 1e11, 1.0, tf.where(size < 1e14, 1e3, tf.where(size < 1e17, 1e6, 1e9)))
    moments, exist = _moments(tf.where(is_date, texts, "1970-01-01"))
    missing = tf.constant(float("nan"), tf.float64)
    dates = tf.where(is_date & exist, tf.cast(moments, tf.float64), missing)
    return tf.where(is_number, tf.floor(numbers / tf.cast(unit, tf.float64)), dates)


def _moments(texts: Any) -> tuple[Any, Any]:
    """ISO 8601 → whole seconds, int64 (B,), and whether there is such a time."""
    date, hour, minute, second, sign, zone_hour, zone_minute = (
        tf.strings.regex_replace(texts, ISO, rf"\{group}") for group in (1, 2, 3, 4, 6, 7, 8)
    )
    year, month, day = (_whole(tf.strings.substr(date, start, length)) for start, length in ((0, 4), (5, 2), (8, 2)))
    hour, minute, second, zone_hour, zone_minute = map(_whole, (hour, minute, second, zone_hour, zone_minute))
    days = _days(year, month, day)
    after = _days(year + month // 12, month % 12 + 1, tf.ones_like(day))  # the first day of the next month
    exist = (month >= 1) & (month <= 12) & (day >= 1) & (days < after) & (hour <= 23) & (minute <= 59) & (second <= 60)
    zone = (zone_hour * 60 + zone_minute) * tf.where(sign == "-", tf.constant(-1, tf.int64), tf.constant(1, tf.int64))
    return ((days * 24 + hour) * 60 + minute - zone) * 60 + second, exist


def _days(year: Any, month: Any, day: Any) -> Any:
    """Days since 1970 of a date of the Gregorian calendar; years begin in March here, so that leap days end them."""
    year = year - tf.cast(month <= 2, tf.int64)
    in_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + in_year - 719_468


def _whole(texts: Any) -> Any:
    return tf.strings.to_number(tf.where(texts == "", "0", texts), tf.int64)


def part(column: Dense | Categorical, moments: Any) -> Any:
    """Seconds (B,) → values of a column that is made of them: float64, NaN where missing, or int64 ids, -1 there."""
    if column.part == "days":
        return moments / 86400.0
    hours = tf.math.floormod(tf.floor(moments / 3600.0), 24.0)
    values = hours if column.part == "hour" else tf.math.floormod(tf.floor(moments / 86400.0) + 3.0, 7.0)
    return tf.cast(tf.where(tf.math.is_nan(moments), tf.constant(float(PADDING), tf.float64), values), tf.int64)
