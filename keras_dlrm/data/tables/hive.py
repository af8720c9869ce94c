"""Columns from names of folders, as Hive and Spark write them: `day=2024-01-01/part-0.parquet`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from keras_dlrm.data.tables.block import Block, TableFile

# What Hive and Spark call a folder of rows without a value.
MISSING = "__HIVE_DEFAULT_PARTITION__"


def folder_values(path: Path) -> dict[str, str]:
    """Column → value, as the folders of a path name them, percent-decoded; empty where missing.

    Example:

    >>> folder_values(Path("log/day=2024-01-01/city=S%C3%A3o%20Paulo/part-0.parquet"))
    {'day': '2024-01-01', 'city': 'São Paulo'}
    """
    pairs = (part.partition("=") for part in path.parent.parts)
    named = {unquote(key): unquote(value) for key, mark, value in pairs if key and mark}
    return {key: "" if value == MISSING else value for key, value in named.items()}


class PartitionedFile(TableFile):
    """A file whose folders name some of the columns that it does not have itself: value by column, as text."""

    def __init__(self, file: TableFile, values: dict[str, str]) -> None:
        self.file, self.path = file, file.path
        self.values = values

    def columns(self) -> list[str] | None:
        known = self.file.columns()
        return [*known, *self.values] if known else known

    def blocks(self, names: Sequence[str], place: dict[str, int] | None = None) -> Iterator[Block]:
        # Examples may have the feature all the same.
        own = [name for name in names if name not in self.values or self.file.columns() is None]
        for block in self.file.blocks(own, place):
            for name in set(names) & set(self.values):
                block.add_constant(name, self.values[name])
            yield block

    def rows(self) -> int | None:
        return self.file.rows()

    def types(self, names: Sequence[str]) -> tuple[dict[str, Any], bool]:
        if self.file.columns() is None:
            return super().types(names)
        types, any_rows = self.file.types(names)
        return {**(dict.fromkeys(names, pl.String) if self.columns() else {}), **types}, any_rows


def partitioned(file: TableFile, names: Sequence[str]) -> TableFile:
    """The file, with those of some columns that only its folders name."""
    known = file.columns()
    values = {
        name: value for name, value in folder_values(file.path).items() if name in names and name not in (known or ())
    }
    return PartitionedFile(file, values) if values else file

