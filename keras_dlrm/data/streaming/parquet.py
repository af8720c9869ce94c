"""`ParquetStream`: Parquet files as a stream of packed rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from keras_dlrm.data.packed.filling import joined
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.streaming.stream import Packed, Piece, Stream, pack, tensorflow_io
from keras_dlrm.data.tables.files import Inputs, input_files
from keras_dlrm.data.tables.frames import ParquetFile
from keras_dlrm.schema.time_parts import raw_names

FETCH = 4096  # rows that one call into TensorFlow brings


class ParquetStream(Stream):
    """Rows of Parquet files, in the order of the files → packed rows, through tensorflow-io.

    Files are found again whenever the end was reached, so that those that a pattern matches later are read, too. Their
    positions are row numbers, by path. A file must be complete when its name first matches: write it aside and rename.

    tensorflow-io reads scalar columns without missing values; a file with others is refused before its first row is
    read, because missing values would shift the rows behind them, and so is one with decimals or dates. One without rows
    is passed over. `kd.data.tables` reads any file.

    Args:
        inputs: Path, glob pattern, or a list of these.
        preprocessor: Fitted; its schema names the columns and the label. Others are ignored.
        on_error: What to do with rows that cannot be used: `"raise"` or `"skip"` (and count).
        max_skipped: With `"skip"`, an error when more than so many were left out.
        poll: Seconds between two looks for more files where the end was reached.

    Raises:
        ImportError: not TensorFlow 2.16, or tensorflow-io is missing.
        FileNotFoundError: no such file.
        ValueError: a multi-hot column, which tensorflow-io cannot read.

    Example:

    ```python
    stream = kd.data.streaming.ParquetStream("days/*.parquet", preprocessor)
    model.fit(stream.dataset(2048), epochs=2)
    ```
    """

    def __init__(
        self,
        inputs: Inputs,
        preprocessor: Preprocessor,
        *,
        on_error: str = "raise",
        max_skipped: int | None = None,
        poll: float = 1.0,
    ) -> None:
        super().__init__(preprocessor, on_error, max_skipped, poll)
        schema = preprocessor.schema
        for column in schema.categorical:
            if column.hotness > 1:
                raise ValueError(
                    f"ParquetStream: column {column.name!r} has hotness={column.hotness}, and tensorflow-io reads no lists; "
                    "use kd.data.tables.preprocess."
                )
        self._names = [*raw_names(schema), *schema.labels]
        self._inputs = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
        # The names stay those of this folder, wherever the program works when it looks for more.
        self._folder = Path.cwd()
        self._open = tensorflow_io("ParquetStream").IODataset.from_parquet
        self._files: dict[str, Path] = {}
        self._rows: dict[str, int] = {}
        self._current: tuple[str, Iterator[pl.DataFrame]] | None = None
        self._ahead: pl.DataFrame | None = None
        self._found()  # a file that is not there is an error at once

    def _found(self) -> dict[str, Path]:
        """The files by their names as they were given, which positions are kept by."""
        if not self._inputs:
            raise ValueError("ParquetStream: an empty list of input files; give at least one.")
        return {
            str(path if Path(entry).is_absolute() else path.relative_to(self._folder)): path
            for entry in self._inputs
            for path in input_files(self._folder / entry)
        }

    def _start(self) -> None:
        self._current = self._ahead = None
        self._files = {}
        self._rows = {}

    def _look(self) -> bool:
        self._files = self._found()
        return self._next() is not None

    def _next(self) -> str | None:
        """The first file that has rows left."""
        for name, path in self._files.items():
            if name not in self._rows:
                self._rows[name] = _checked_rows(path, self._names)
                at = self.positions.setdefault(name, 0)
                if at > self._rows[name]:
                    raise ValueError(
                        f"{name}: {at} rows of it were read, but it has {self._rows[name]}; it is another file. Give new "
                        "files new names."
                    )
            if self.positions[name] < self._rows[name]:
                return name
        return None

    def _take(self, rows: int) -> list[Piece]:
        name = self._next()
        if name is None:
            return []
        if self._current is None or self._current[0] != name:
            self._current = (name, self._frames(name, self.positions[name]))
            self._ahead = None
        if self._ahead is None or not len(self._ahead):
            self._ahead = next(self._current[1], None)
            if self._ahead is None:
                raise RuntimeError(
                    f"{name}: tensorflow-io read {self.positions[name]} of its {self._rows[name]} rows; the file has changed."
                )
        first, part = self.positions[name], self._ahead[:rows]
        self._ahead = self._ahead[rows:]
        self.positions[name] += len(part)
        return [Piece(name, range(first, first + len(part)), part)]

    def _frames(self, name: str, start: int) -> Iterator[pl.DataFrame]:
        from keras_dlrm.data.packed.tf_data import OpError

        path = self._files[name]
        kinds = ParquetFile(path).schema(self._names)
        dataset = self._open(str(path), columns=self._names).skip(start).batch(FETCH).prefetch(2)
        try:
            for columns in dataset.as_numpy_iterator():
                series = []
                for column in self._names:
                    kind = kinds[column]
                    text = isinstance(kind, (pl.String, pl.Categorical, pl.Enum))
                    values = pl.Series(column, columns[column].tolist() if text else columns[column])
                    if text:
                        values = values.cast(pl.String)
                    elif kind.is_unsigned_integer():  # Parquet holds them in signed integers of their width
                        values = values.reinterpret(signed=False).cast(kind)
                    series.append(values)
                yield pl.DataFrame(series)
        except OpError as error:
            raise ValueError(f"{name} cannot be read: {error.message}.") from error

    def _pack(self, pieces: Sequence[Piece]) -> Packed | None:
        packed = []
        for piece in pieces:
            part = pack(self.preprocessor, piece.content, [piece.source] * len(piece), piece.numbers, self.bad)
            packed += [] if part is None else [part]
        return joined(packed) if packed else None

    def _length(self, batch_size: int) -> int | None:
        if self.bad.on_error != "raise":
            return None
        rows = sum(_checked_rows(path, self._names) for path in self._found().values())
        return -(-rows // batch_size)

    def close(self) -> None:
        """Let go of the files."""
        self._current = self._ahead = None
        self._ready = False


def _checked_rows(path: Path, names: Sequence[str]) -> int:
    """Rows of a file whose columns tensorflow-io reads right; an error names a column that it does not."""
    file = ParquetFile(path)
    kinds, rows = file.schema(), file.rows()
    if not rows:
        return 0  # A column without values may be of any type, or not be there.
    for name in names:
        if name not in kinds:
            raise KeyError(f"{path}: column {name!r} is missing; it has {list(kinds)}.")
        kind = kinds[name]
        if not (kind.is_integer() or kind.is_float() or isinstance(kind, (pl.String, pl.Boolean, pl.Categorical, pl.Enum))):
            raise ValueError(f"{path}: column {name!r} is {kind}; tensorflow-io reads numbers, booleans and strings.")
    for name, count in file.nulls(names).items():
        if count:
            raise ValueError(
                f"{path}: column {name!r} has {count} missing values, and tensorflow-io would shift the rows behind them; "
                "fill them, or use kd.data.tables.preprocess."
            )
    return rows
