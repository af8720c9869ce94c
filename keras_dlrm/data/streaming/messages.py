"""Messages of a stream (JSON, CSV, Example) to rows of raw values."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_dlrm.data.kernels import normal_form
from keras_dlrm.data.preprocessor.raw_columns import SEPARATOR
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.time_parts import raw_names

FORMATS = ("json", "csv", "example")
Value = str | list[str | None] | None


class BadMessage(ValueError):
    """A message that is not a row: the column, empty where the message as a whole is wrong, its value, and what it must be."""

    def __init__(self, column: str, value: object, reason: str) -> None:
        super().__init__(f"{column}: {value!r} {reason}")
        self.column = column
        self.value = str(value)
        self.reason = reason


class Decoder:
    """One message → the values of one row, in the order of `names`.

    All values become text, as they are in a CSV file, so that a column is of one kind whatever its producers write: 3,
    3.0 and "3" are one category, true is 1 in a dense column. Null is a missing value. A column that is absent is an
    error: its name may be misspelt, and the model would learn that it is always missing.

    Args:
        schema: The columns.
        format: `"json"`: an object; multi-hot columns are lists, or strings whose values are separated by `|`. `"csv"`:
            one record. `"example"`: a serialized `tf.train.Example`.
        columns: Names of the fields of a CSV record, in order; others than the schema's are ignored. By default the
            labels, the dense and the sparse columns, in the schema's order.

    Attributes:
        names: Names of the columns in a row: dense, sparse, label.

    Raises:
        ValueError: an unknown format, `columns` without CSV, or `columns` without one that the schema has.

    Example:

    >>> schema = kd.Schema(dense=["price"], categorical=[kd.Categorical("tags", 9, hotness=3)], label="click")
    >>> decoder = Decoder(schema, "json")
    >>> decoder.names, decoder(b'{"price": 2.5, "tags": [1, 2], "click": 1}')
    (['price', 'tags', 'click'], ['2.5', ['1', '2'], '1'])
    """

    def __init__(self, schema: Schema, format: str = "json", columns: Sequence[str] | None = None) -> None:
        if format not in FORMATS:
            raise ValueError(f"format={format!r} is unknown; use one of {FORMATS}.")
        if columns is not None and format != "csv":
            raise ValueError(f"columns={list(columns)} name the fields of CSV records; format={format!r} has names.")
        self.names = [*raw_names(schema), *schema.labels]
        self._columns = list(columns or [*schema.labels, *raw_names(schema)])
        for name in self.names:
            if self._columns.count(name) != 1:
                raise ValueError(
                    f"columns={self._columns}: {name!r} occurs {self._columns.count(name)} times; name each column of the "
                    "schema once."
                )
        many = {c.name for c in schema.categorical if c.multi_hot}
        numbers = {*schema.dense_names, *schema.labels}
        self._text: list[Callable[[str, Any], Value]] = [
            _list if name in many else _number if name in numbers else _category for name in self.names
        ]
        self._fields = {"json": self._json, "csv": self._csv, "example": _example_fields}[format]

    def __call__(self, message: bytes) -> list[Value]:
        """Decode one message; `BadMessage` where it cannot be used."""
        if not message:
            raise BadMessage("", "", "the message is empty")
        fields = self._fields(message)
        row = []
        for name, text in zip(self.names, self._text, strict=True):
            try:
                value = fields[name]
            except KeyError:
                raise BadMessage("", "", f"column {name!r} is missing; give null where there is no value") from None
            row.append(text(name, value))
        return row

    def _json(self, message: bytes) -> dict[str, Any]:
        try:
            fields = json.loads(message)
        except (ValueError, RecursionError) as error:
            raise BadMessage("", "", f"the message is not valid JSON ({error})") from None
        if not isinstance(fields, dict):
            raise BadMessage("", "", f"the message is a JSON {type(fields).__name__}; it must be an object")
        return fields

    def _csv(self, message: bytes) -> dict[str, Any]:
        try:
            # Not splitlines: of a text's line ends it knows more than CSV does.
            records = list(csv.reader(io.StringIO(message.decode("utf-8"), newline=""), strict=True))
        except (ValueError, csv.Error) as error:
            raise BadMessage("", "", f"the message is not a CSV record ({error})") from None
        if len(records) != 1 or len(records[0]) != len(self._columns):
            content = f"{len(records)} records" if len(records) != 1 else f"{len(records[0])} fields"
            raise BadMessage("", "", f"the message has {content}; it must be one record with {len(self._columns)} fields")
        return dict(zip(self._columns, records[0], strict=True))


def _example_fields(message: bytes) -> dict[str, Any]:
    """Features of a serialized `tf.train.Example`: a value, or a list where there are several."""
    from keras_dlrm.data.packed.tf_data import example_features, feature_values

    try:
        features = example_features(message)
    except ValueError as error:
        raise BadMessage("", "", f"the message is not a tf.train.Example ({error})") from None
    fields: dict[str, Any] = {}
    for name, feature in features.items():
        try:
            _, values = feature_values(feature)
        except UnicodeDecodeError:
            raise BadMessage(name, list(feature.bytes_list.value), "must be UTF-8 text") from None
        fields[name] = None if not values else values[0] if len(values) == 1 else values
    return fields


def _text(name: str, value: str) -> str:
    """JSON can write half a surrogate pair, which is not a character and in no UTF-8."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            shown = value.encode("utf-8", "backslashreplace").decode()
            raise BadMessage(name, shown, "must be text; it holds half of a surrogate pair") from None
    return value


def _category(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return _text(name, value)
    try:
        return normal_form.text(value)
    except TypeError:
        raise BadMessage(name, value, "must be one value: a string, a number, true, false or null") from None


def _number(name: str, value: Any) -> str | None:
    if isinstance(value, (bool, int)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return str(float(value))
    if value is None or isinstance(value, str):
        return _category(name, value)
    raise BadMessage(name, value, "must be one value: a number or null")


def _list(name: str, value: Any) -> list[str | None]:
    if isinstance(value, list):
        return [_category(name, entry) for entry in value]
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return list(_text(name, value).split(SEPARATOR))
    return [_category(name, value)]
