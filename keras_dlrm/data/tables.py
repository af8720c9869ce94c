"""CSV, TSV and Parquet tables → a processed directory, described by a Schema."""

from __future__ import annotations

import contextlib
import glob as globbing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_dlrm.data import columns as raw
from keras_dlrm.data import dense
from keras_dlrm.data.format import SPLITS
from keras_dlrm.data.packed import ClickLog
from keras_dlrm.data.packed import open as open_log
from keras_dlrm.data.preprocessor import Preprocessor
from keras_dlrm.data.writer import PackedWriter, check_output
from keras_dlrm.schema import Schema

if TYPE_CHECKING:
    import polars as pl

Inputs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Progress = Callable[[int, int | None, str], None]
CHUNK = 65_536


def preprocess(
    schema: Schema,
    train: Inputs,
    valid: Inputs | None = None,
    test: Inputs | None = None,
    *,
    output: str | os.PathLike[str],
    split: Mapping[str, float] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ClickLog:
    """Preprocess tables into a directory for `kd.data.open`.

    Vocabularies and statistics are fitted on the training rows only. Rows keep the order of the files: a log that is
    ordered by time stays so, and a `split` by fractions then trains on the past and tests on the future.

    Columns are found by name; others are ignored. In CSV a multi-hot column is a string of values separated by `|`,
    in Parquet a list. An empty field is a missing value. Files are read in parts of 65,536 rows.

    Args:
        schema: The columns. Sparse columns without a `vocabulary_size` get a fitted vocabulary.
        train: Path, glob pattern, or a list of these: `.csv`, `.tsv`, `.parquet` (also `.csv.gz`, `.tsv.gz`). Several
            files are read one after the other; those of a glob in the order of their names.
        valid: The same, for the validation split.
        test: The same, for the test split.
        output: Directory to write: complete or absent.
        split: Instead of `valid` and `test`: fractions that cut `train` in file order, as
            `{"train": 0.8, "valid": 0.1, "test": 0.1}`.
        overwrite: Whether a processed directory at `output` may be replaced.
        progress: Called as `progress(rows_done, rows_total, stage)`, with the stages `"fit"` and `"write"`.

    Returns:
        The written `ClickLog`.

    Raises:
        FileNotFoundError: an input does not exist.
        FileExistsError: `output` exists.
        KeyError: a column is missing.
        ValueError, TypeError: a value cannot be used; the message names file, column and row (counted from 0, without
            the header).

    Example:

    ```python
    schema = kd.Schema(dense=[kd.Dense("price", "log1p_standardise")], categorical=[kd.Categorical("city")])
    data = kd.data.tables.preprocess(schema, "log-*.parquet", output="processed", split={"train": 0.9, "test": 0.1})
    ```
    """
    if schema.weighted:
        raise ValueError("tables: a weighted=True schema names no column of weights; write batches with PackedWriter.")
    check_output(Path(output), overwrite)
    if split is not None and (valid is not None or test is not None):
        raise ValueError("tables: give either split=… or valid and test files, not both.")
    names = [*schema.dense_names, *schema.categorical_names, schema.label]
    given = {"train": train, "valid": valid, "test": test}
    files = {name: input_files(paths) for name, paths in given.items() if paths is not None}
    for path in [p for paths in files.values() for p in paths]:
        _check_columns(path, names)
    if split is None:
        parts = [_Part(name, paths, 0, None) for name, paths in files.items()]
    else:
        parts = _cut(files["train"], split)
    total = _Total(parts, progress)

    fit_needed = not schema.fitted or any(dense.needs_fit(c) for c in schema.dense)
    fit_names = [*schema.dense_names, *schema.categorical_names]
    training = total.run("fit", parts[:1], fit_names) if fit_needed else ()
    preprocessor = Preprocessor.fit(schema, training)
    if fit_needed and not total.done.get("fit"):
        raise ValueError(f"{files['train'][0]}: the training part has no rows, so no vocabulary can be fitted.")
    with PackedWriter(output, preprocessor.schema, preprocessor, overwrite) as writer:
        for part in parts:
            writer.begin(part.split)
            for table, where in total.run("write", [part], names):
                labels = _labels(table, schema.label, where)
                writer.append(part.split, preprocessor.transform(table, where=where), labels)
    return open_log(output)


class _Part:
    """Rows [start, stop) of some files, taken as one table."""

    def __init__(self, split: str, paths: list[Path], start: int, stop: int | None) -> None:
        self.split, self.paths, self.start, self.stop = split, paths, start, stop

    def frames(self, names: Sequence[str]) -> Iterator[tuple[pl.DataFrame, raw.Where]]:
        before = 0  # rows of the files up to the frame
        for path in self.paths:
            in_file = 0
            for table in _batches(path, names):
                low = max(self.start - before, 0)
                high = len(table) if self.stop is None else min(self.stop - before, len(table))
                if low < high:
                    yield table[low:high], raw.Where(str(path), in_file + low)
                before += len(table)
                in_file += len(table)
                if self.stop is not None and before >= self.stop:
                    return


class _Total:
    """Counts rows for the caller's progress display."""

    def __init__(self, parts: list[_Part], progress: Progress | None) -> None:
        self.progress = progress
        self.rows: dict[str, int] = {}
        self.done: dict[str, int] = {}
        if progress is not None:
            for part in parts:
                rows = sum(count_rows(p) for p in part.paths) if part.stop is None else part.stop - part.start
                self.rows[part.split] = rows

    def run(self, stage: str, parts: list[_Part], names: Sequence[str]) -> Iterator[tuple[pl.DataFrame, raw.Where]]:
        for part in parts:
            for table, where in part.frames(names):
                yield table, where
                self.done[stage] = self.done.get(stage, 0) + len(table)
                if self.progress is not None:
                    total = self.rows["train"] if stage == "fit" else sum(self.rows.values())
                    self.progress(self.done[stage], total, stage)


def scan(path: Path) -> pl.LazyFrame:
    """A table file as a Polars LazyFrame; every column of a text file is a string.

    Raises:
        ValueError: an unknown ending.
    """
    import polars as pl

    endings = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    ending = endings[-1] if endings else ""
    if ending in (".parquet", ".pq"):
        return pl.scan_parquet(path)
    if ending in (".csv", ".tsv"):
        return pl.scan_csv(path, separator="\t" if ending == ".tsv" else ",", infer_schema=False)
    raise ValueError(f"{path}: the ending says no format; use .csv, .tsv (also .gz) or .parquet.")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what Polars says of a file that it cannot read into an error that names the file."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as a table: {reason}. Text files must be UTF-8, with as many fields in each row as "
            "in the header."
        ) from error


def _batches(path: Path, names: Sequence[str]) -> Iterator[pl.DataFrame]:
    with _readable(path):
        batches = iter(scan(path).select(names).collect_batches(chunk_size=CHUNK, maintain_order=True))
    while True:
        with _readable(path):
            table = next(batches, None)
        if table is None:
            return
        yield table


def count_rows(path: Path) -> int:
    """Rows of a table file.

    Raises:
        ValueError: the file cannot be read.
    """
    import polars as pl

    with _readable(path):
        return int(scan(path).select(pl.len()).collect(engine="streaming").item())


def input_files(inputs: Inputs) -> list[Path]:
    """The files that a path, a pattern or a list of these stands for.

    Raises:
        FileNotFoundError: one of them does not exist.
    """
    paths: list[Path] = []
    for entry in [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs):
        path = Path(entry)
        if not path.exists() and globbing.has_magic(str(entry)):
            found = [Path(p) for p in sorted(globbing.glob(str(entry)))]
            if not found:
                raise FileNotFoundError(f"{entry}: no file has such a name; check the pattern.")
            paths += found
        elif not path.is_file():
            raise FileNotFoundError(
                f"{entry}: no such file; give a .csv, .tsv or .parquet file, a list, or a glob pattern."
            )
        else:
            paths.append(path)
    if not paths:
        raise ValueError("tables: an empty list of input files; give at least one.")
    return paths


def _check_columns(path: Path, names: Sequence[str]) -> None:
    with _readable(path):
        given = scan(path).collect_schema().names()
    for name in names:
        if name not in given:
            raise KeyError(f"{path}: column {name!r} is missing; the file has {given}.")
        # So Polars renames the second of two columns of one name in a text file.
        if f"{name}_duplicated_0" in given:
            raise ValueError(
                f"{path}: column {name!r} occurs more than once in the header; rename or drop one of them."
            )


def _cut(paths: list[Path], split: Mapping[str, float]) -> list[_Part]:
    for name, share in split.items():
        if name not in SPLITS:
            raise ValueError(f"tables: split names {name!r}; the splits are {SPLITS}.")
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"tables: split[{name!r}]={share} must be a fraction between 0 and 1.")
    if "train" not in split or abs(sum(split.values()) - 1.0) > 1e-6:
        raise ValueError(f"tables: split={dict(split)} must have 'train' and add up to 1.")
    total = sum(count_rows(p) for p in paths)
    parts, share, start = [], 0.0, 0
    for name in [s for s in SPLITS if s in split]:
        share += split[name]
        stop = min(round(share * total), total)
        parts.append(_Part(name, paths, start, stop))
        start = stop
    return parts


def _labels(table: pl.DataFrame, name: str, where: raw.Where) -> np.ndarray:
    labels = raw.dense_values(table, name, where)
    bad = (labels != 0) & (labels != 1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{where.at(row)}, label {name!r}: value {table[name][row]!r} must be 0 or 1. Fix or drop the row."
        )
    return labels.astype(np.float32)
