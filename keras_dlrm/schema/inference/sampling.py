"""Sample of a table for schema inference: rows from all of a frame, or of Parquet, CSV and TSV files."""

import gzip
import io
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from keras_dlrm.files.paths import blank, folder_values, regular, utf8_path
from keras_dlrm.files.table_paths import table_paths
from keras_dlrm.support.values import is_missing

ROWS = 200_000
# Places of a large table that rows are taken from: a log is often in the order of time.
_PLACES = 10
_FILES = 100  # that are looked at


class Sample(NamedTuple):
    """Rows of a table: a frame, the number of rows of the whole table where it is known, and where they come from."""

    frame: pl.DataFrame
    total: int | None
    source: str


def sample(data: Any, csv: Any = None, rows: int = ROWS) -> Sample:
    """At most about so many rows, in the order of the table.

    Args:
        data: A frame (pandas, Polars, Arrow, or a mapping of named columns); or a path, a folder, a pattern or a list of
            these of `.parquet`, `.csv` and `.tsv` files (text also `.gz`).
        csv: `CsvDialect` of text files; files of other endings are text then.
        rows: Most rows.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: of another format, or without rows, or two columns have one name.
    """
    if isinstance(data, (str, os.PathLike)) or (isinstance(data, (list, tuple)) and data):
        chosen = _of_files(_files(data), csv, rows)
    else:
        chosen = _of_frame(data, rows)
    if not len(chosen.frame):
        raise ValueError(f"infer: {chosen.source} has no rows; give a table with some.")
    return chosen


def _of_files(files: list[Path], csv: Any, rows: int) -> Sample:
    source = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    looked = files if len(files) <= _FILES else [files[i] for i in np.linspace(0, len(files) - 1, _FILES).astype(int)]
    parts = {path: part for path in looked if (part := _of_file(path, csv, -(-rows // len(looked)))) is not None}
    if not parts:
        raise ValueError(f"infer: {source} is empty; give a file with rows.")
    first, names = next((path, part.frame.columns) for path, part in parts.items())
    for path, part in parts.items():
        if other := sorted(set(part.frame.columns) ^ set(names)):
            raise ValueError(f"infer: column {other[0]!r} is in one of {first} and {path} and not in the other.")
    try:
        frame = pl.concat([part.frame.select(names) for part in parts.values()], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"infer: the files of {source} have columns of different kinds ({_first_line(error)})."
        ) from None
    totals = [part.total for part in parts.values()]
    total = None if None in totals or len(looked) < len(files) else sum(totals)  # type: ignore[arg-type]
    return Sample(frame, total, source)


def _of_frame(data: Any, rows: int) -> Sample:
    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        total, names = len(data), [str(name) for name in data.columns]
        _check_names(names, "the frame")
        data = data.iloc[_places(total, rows)]
        return Sample(
            pl.DataFrame([_series(name, data.iloc[:, k]) for k, name in enumerate(names)]), total, "the frame"
        )
    if isinstance(data, Mapping):
        columns = [_series(str(name), values) for name, values in data.items()]
        for column in columns:
            if len(column) != len(columns[0]):
                both = f"{columns[0].name!r} has {len(columns[0])} rows and {column.name!r} {len(column)}"
                raise ValueError(f"infer: the columns differ in length: {both}.")
        data = pl.DataFrame(columns)
    if not isinstance(data, pl.DataFrame):
        if not hasattr(data, "__arrow_c_stream__"):
            raise TypeError(f"infer: expected a frame or a path, not {type(data).__name__}.")
        data = pl.DataFrame(data)
    return Sample(data[_places(len(data), rows)], len(data), "the frame")


def _files(data: Any) -> list[Path]:
    paths: list[Path] = []
    for entry in [data] if isinstance(data, (str, os.PathLike)) else data:
        if not isinstance(entry, (str, os.PathLike)):
            raise TypeError(f"infer: a list holds a {type(entry).__name__}; give paths, or one frame.")
        named = table_paths(entry)
        if not named:
            raise FileNotFoundError(f"{entry}: no file has such a name; check the pattern.")
        paths += [regular(path, "give a file, such as clicks.parquet") for path in named]
    return paths


def _series(name: str, values: Any) -> pl.Series:
    """A column of any kind; values of several kinds are texts."""
    kind = getattr(values, "dtype", None)
    if isinstance(values, pl.Series):
        return values.alias(name)
    if isinstance(kind, np.dtype) and kind.kind in "biufUM":
        return pl.Series(name, np.asarray(values), nan_to_null=True)
    try:
        if not isinstance(values, (list, tuple)):
            values = [None if is_missing(value) else value for value in values]
        return pl.Series(name, values, strict=False)
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        raise ValueError(
            f"infer: column {name!r} cannot be read ({_first_line(error)}); make it numbers or texts."
        ) from None


def _places(total: int, rows: int) -> np.ndarray:
    """Numbers of rows from some places of a table, evenly spaced."""
    if total <= rows:
        return np.arange(total)
    starts, each = _starts(total, rows)
    return (starts[:, None] + np.arange(each)).ravel()


def _starts(total: int, rows: int) -> tuple[np.ndarray, int]:
    """First rows of the places, and how many rows each gives."""
    each = rows // _PLACES
    return np.linspace(0, total - each, _PLACES).astype(np.int64), each


def _check_names(names: Sequence[str], source: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"infer: {source} has {names.count(name)} columns {name!r}; rename or drop all but one.")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _of_file(path: Path, csv: Any, rows: int) -> Sample | None:
    """Rows of a file, with columns that its folders name, or `None`: it is empty."""
    content = _of_content(path, csv, rows)
    if content is None:
        return None
    named = {name: value or None for name, value in folder_values(path).items() if name not in content.frame.columns}
    frame = content.frame.with_columns(pl.lit(value, pl.String).alias(name) for name, value in named.items())
    return Sample(frame, content.total, content.source)


def _of_content(path: Path, csv: Any, rows: int) -> Sample | None:
    endings = [ending.lower() for ending in path.suffixes]
    packed = endings[-1:] == [".gz"]
    ending = "".join(endings[-2:-1] if packed else endings[-1:])
    try:
        if ending in (".parquet", ".pq"):
            return _of_parquet(path, rows) if path.stat().st_size else None
        if ending in (".csv", ".tsv") or csv is not None:
            separator = "\t" if ending == ".tsv" else ","
            return None if blank(path, separator.encode()) else _Text(path, packed, separator, csv).sample(rows)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError) as error:
        what = "Parquet" if ending in (".parquet", ".pq") else "text"
        raise ValueError(f"infer: {path} cannot be read as {what} ({_first_line(error)}).") from None
    raise ValueError(
        f"infer: {path} is no Parquet, CSV or TSV file by its ending; give csv=kd.data.CsvDialect(…) for text, or a frame."
    )


def _of_parquet(path: Path, rows: int) -> Sample:
    table = pl.scan_parquet(utf8_path(path), glob=False, hive_partitioning=False)
    total = table.select(pl.len()).collect().item()
    if total <= rows:
        return Sample(table.collect(), total, str(path))
    starts, each = _starts(total, rows)
    return Sample(pl.concat([table.slice(int(start), each).collect() for start in starts]), total, str(path))


class _Text:
    """A text file; all its columns are texts."""

    def __init__(self, path: Path, packed: bool, separator: str, csv: Any) -> None:
        self._path, self._packed = path, packed
        self._names = None if csv is None else csv.names
        self._quoting = csv is None or csv.quoting
        self._options: dict[str, Any] = {
            "separator": (csv and csv.separator) or separator,
            "quote_char": '"' if self._quoting else None,
            "null_values": None if csv is None else list(csv.null),
            "infer_schema": False,
        }

    def sample(self, rows: int) -> Sample:
        """Rows of the file, of some places where it is large and not packed."""
        if self._packed:
            with gzip.open(self._path, "rb") as file:
                lines = list(itertools.islice(file, rows + 1))
                whole = not file.read(1)
            while self._quoting and not whole and sum(line.count(b'"') for line in lines) % 2:
                lines.pop()  # a field goes on in the next line
            head = self._read(b"".join(lines))
        else:
            head = self._read(self._path, n_rows=rows + 1)
            whole = len(head) <= rows
            head = head if whole else self._of_places(head, rows)
        return Sample(head, len(head) if whole else None, str(self._path))

    def _read(self, content: bytes | Path, **more: Any) -> pl.DataFrame:
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        if self._names is not None:
            frame = pl.read_csv(source, has_header=False, **self._options, **more)
            if frame.width != len(self._names):
                raise ValueError(
                    f"infer: {self._path} has {frame.width} columns; names of {len(self._names)} are given."
                )
            return frame.rename(dict(zip(frame.columns, self._names, strict=True)))
        # Polars gives the second of two equal names another one.
        header = pl.read_csv(source, has_header=False, n_rows=1, **self._options).row(0)
        _check_names([str(name) for name in header], str(self._path))
        if isinstance(source, io.BytesIO):
            source.seek(0)
        return pl.read_csv(source, **self._options, **more)

    def _of_places(self, head: pl.DataFrame, rows: int) -> pl.DataFrame:
        """Rows of some places; the first ones alone where quotes may hide the ends of lines."""
        part = head.head(1000)
        length = len(part.write_csv(separator=self._options["separator"])) // len(part) * (rows // _PLACES)
        with open(self._path, "rb") as file:
            first = b"" if self._names is not None else file.readline()
            last = max(os.fstat(file.fileno()).st_size - length, len(first))
            parts = []
            for start in np.linspace(len(first), last, _PLACES).astype(int):
                file.seek(start)
                if start > len(first):
                    file.readline()
                chunk = file.read(length)
                lines = chunk[: chunk.rfind(b"\n") + 1]
                if self._quoting and b'"' in lines:
                    return head.head(rows)
                if lines:
                    parts.append(self._read(first + lines))
        return pl.concat(parts)
