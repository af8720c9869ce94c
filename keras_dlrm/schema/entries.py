"""Columns of a schema as plain values, as its files hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_dlrm.schema.columns import Categorical, Dense
from keras_dlrm.support.arguments import shown


def listed(field: str, columns: Any) -> list[Any]:
    """Columns as a list. One name, or a mapping by name, would fall apart into letters or lose its values."""
    if columns is None:
        return []
    if isinstance(columns, (str, Mapping, Categorical, Dense)) or not isinstance(columns, Iterable):
        kind = {"str": "string", "dict": "mapping"}.get(type(columns).__name__, type(columns).__name__)
        entries = "names" if field == "dense" else "columns, each with a name"
        raise TypeError(f"Schema: {field}={shown(columns)} is one {kind}; give a list of {entries}.")
    return list(columns)


def compact(column: Dense | Categorical) -> dict[str, Any]:
    """The fields of a column that are not at their defaults."""
    out = {}
    for field in dataclasses.fields(column):
        value = getattr(column, field.name)
        if field.name == "name" or value != field.default:
            out[field.name] = value.item() if isinstance(value, np.generic) else value
    return out


def from_entry(kind: Any, entry: Any) -> Any:
    """The column, `Dense` or `Categorical`, that a name or a mapping of its fields describes."""
    if isinstance(entry, (kind, str)):
        return kind(entry) if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping):
        raise TypeError(f"Schema: a column is described by {shown(entry)}; give a mapping with its fields.")
    known = [f.name for f in dataclasses.fields(kind)]
    unknown = sorted(str(key) for key in set(entry) - set(known))
    if unknown:
        raise ValueError(f"Schema: unknown field {shown(unknown[0])} in {shown(dict(entry))}; known are {known}.")
    if "name" not in entry:
        raise ValueError(f"Schema: a column without a name: {shown(dict(entry))}.")
    return kind(**entry)
