"""`CsvDialect`: separator, header, words for a missing value, and quotes of delimited text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dlrm.schema.columns import compact

# Larger than any byte: nothing equals it.
_NO_BYTE = 256


@dataclasses.dataclass(frozen=True)
class CsvDialect:
    r"""A way to read the lines of a text file.

    Args:
        separator: Character between fields, of ASCII. `None`: a comma, or a tab in files that end with `.tsv`.
        names: Names of the columns, in order, of files without a header. `None`: the first line has them.
        null: Texts of whole fields that stand for a missing value, besides the empty one: `("NA", r"\N")`.
        quoting: Whether a field that begins with a double quote ends with one. Otherwise quotes are letters.

    Raises:
        TypeError, ValueError: an argument is of another kind, or a separator that lines or lists need themselves.

    Example:

    >>> dialect = CsvDialect(separator=";", names=["click", "user"], null=["NULL"])
    >>> CsvDialect.from_dict(dialect.to_dict()) == dialect
    True
    """

    separator: str | None = None
    names: tuple[str, ...] | None = None
    null: tuple[str, ...] = ()
    quoting: bool = True

    def __post_init__(self) -> None:
        for field in ("names", "null"):
            value = getattr(self, field)
            texts = isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value)
            if not texts and not (value is None and field == "names"):
                raise TypeError(f"CsvDialect: {field}={value!r} must be a list of texts.")
            object.__setattr__(self, field, None if value is None else tuple(value))
        if self.names is not None and (not self.names or "" in self.names):
            raise ValueError(f"CsvDialect: names={list(self.names)} must name each field of a line.")
        if not isinstance(self.quoting, bool):
            raise TypeError(f"CsvDialect: quoting={self.quoting!r} must be True or False.")
        if self.separator is None:
            return
        if not isinstance(self.separator, str) or len(self.separator) != 1 or not self.separator.isascii():
            raise ValueError(f"CsvDialect: separator={self.separator!r} must be one ASCII character, or None.")
        if self.separator in "\r\n" or (self.separator == '"' and self.quoting):
            raise ValueError(f"CsvDialect: separator={self.separator!r} already ends lines or fields; use another one.")

    def byte(self, ending: str) -> int:
        """The separator of a file with this ending."""
        return ord(self.separator or ("\t" if ending == ".tsv" else ","))

    @property
    def quote(self) -> int:
        """The byte that fields are quoted with, or one that there is not."""
        return ord('"') if self.quoting else _NO_BYTE

    def set_missing(self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Make the fields empty that stand for a missing value: uint8 bytes, and int64 starts and ends of any shape."""
        for token in self.null:
            text = np.frombuffer(token.encode(), np.uint8)
            same = (ends - starts) == len(text)
            at = starts[same]
            for k, byte in enumerate(text):
                hit = data[at + k] == byte
                same[same] = hit
                at = at[hit]
            ends[same] = starts[same]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; arguments at their defaults are left out."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in compact(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CsvDialect:
        """Inverse of `to_dict`."""
        return cls(**data)
