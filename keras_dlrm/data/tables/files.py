"""Input files of a table: names, patterns and folders to files, and the reader for each format."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from keras_dlrm.data.preprocessor.block import Block
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.raw_columns import is_table
from keras_dlrm.data.tables.frames import FrameFile, ParquetFile
from keras_dlrm.data.tables.table_file import TableFile
from keras_dlrm.data.tables.text import TextFile
from keras_dlrm.files.paths import folder_values, regular
from keras_dlrm.files.table_paths import table_paths

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
# Also frames: of pandas, Polars or Arrow, and mappings of named columns.
Inputs = Paths | Any
ENDINGS = ".csv, .tsv, .tfrecord (these also .gz) or .parquet"


def table_files(
    inputs: Inputs, names: Sequence[str], dialect: CsvDialect | None = None, times: Collection[str] = ()
) -> list[TableFile]:
    """The tables that a path, a pattern, a frame or a list of these stands for.

    `names` are columns that may come from the names of folders, as in `day=2024-01-01/part-0.parquet`; `times` are those that
    may hold dates.
    """
    entries = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    tables: list[TableFile] = []
    for entry in entries:
        if isinstance(entry, (str, os.PathLike)):
            tables += [partitioned(open_table(path, dialect), names) for path in input_files(entry)]
        else:
            if not is_table(entry):
                fix = 'give a path, a pattern, a frame, or a mapping of columns such as {"price": [3.5, 2.0]}'
                raise TypeError(f"tables: an input is of the type {type(entry).__name__}; {fix}.")
            tables.append(FrameFile(entry, "the frame" if len(entries) == 1 else f"frame {len(tables)}", times))
    if not tables:
        raise ValueError("tables: an empty list of input files; give at least one.")
    return tables


def open_table(path: Path, dialect: CsvDialect | None = None) -> TableFile:
    """The file by its ending; where a dialect is given, a file with an unknown ending is text."""
    endings = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    ending = endings[-1] if endings else ""
    if ending in (".parquet", ".pq"):
        return ParquetFile(path)
    if ending in (".tfrecord", ".tfrecords"):
        from keras_dlrm.data.tables.records import RecordFile

        return RecordFile(path)
    if ending in (".csv", ".tsv") or dialect is not None:
        return TextFile(path, dialect or CsvDialect())
    raise ValueError(f"{path}: the ending says no format; use {ENDINGS}.")


def input_files(inputs: Paths) -> list[Path]:
    """The files that a path, a pattern, a folder or a list of these stands for; an error where one of them is none."""
    paths: list[Path] = []
    for entry in [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs):
        matching = table_paths(entry)
        if not matching:
            raise FileNotFoundError(f"{entry}: no file has such a name; check the pattern.")
        paths += [regular(path, f"give a file ({ENDINGS}), a folder, a list, or a glob pattern") for path in matching]
    if not paths:
        raise ValueError("tables: an empty list of input files; give at least one.")
    return paths


def check_columns(files: Sequence[TableFile], names: Sequence[str]) -> None:
    """`KeyError` or `ValueError` unless each file that is not empty has all columns, each once, and one is not empty."""
    columns_of_files = [file.columns() for file in files]
    for file, columns in zip(files, columns_of_files, strict=True):
        if not columns:
            continue
        for name in names:
            if name not in columns:
                raise KeyError(f"{file.path}: column {name!r} is missing; it has {columns}.")
            if columns.count(name) > 1:
                raise ValueError(
                    f"{file.path}: column {name!r} occurs more than once in the header; rename or drop one of them."
                )
    if all(columns == [] for columns in columns_of_files):
        others = ", and so are all other inputs" if len(files) > 1 else ""
        raise ValueError(f"{files[0].path} cannot be read as a table: it is empty{others}; give a file with rows.")


class PartitionedFile(TableFile):
    """A file whose folders name some of the columns that it does not have itself: value by column, as text."""

    def __init__(self, file: TableFile, values: dict[str, str]) -> None:
        super().__init__(file.path)
        self.file, self.values = file, values

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
