"""Output tables (Parquet, CSV, TSV) that grow frame by frame, atomic."""

from __future__ import annotations

import contextlib
import gzip
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import polars as pl
from polars.io.plugins import register_io_source

from keras_dlrm.files.durable import check_file, publish, workspace
from keras_dlrm.files.paths import utf8_path

Columns = dict[str, "pl.DataType | type[pl.DataType]"]
ENDINGS = ".parquet, .csv, .tsv (the last two also .gz)"
_WAITING = 2  # frames between the two threads of a Parquet file


class TableOutput:
    """Writes a table alongside its place and renames it when the `with` block ends without an error.

    The ending of the path says the format; columns are Polars types by name. `ValueError` for an unknown ending, or a type that the
    format cannot hold; `OSError` where there is a file, no folder, or no room on the disk. `rows` counts what was written so far.

    Example:

    >>> import tempfile
    >>> import polars as pl
    >>> path = Path(tempfile.mkdtemp()) / "p.csv"
    >>> with TableOutput(path, {"id": pl.Int64, "probability": pl.Float32}) as output:
    ...     output.write(pl.DataFrame({"id": [7], "probability": [0.5]}, output.columns))
    ...     path.exists()
    False
    >>> path.read_text()
    'id,probability\\n7,0.5\\n'
    """

    def __init__(self, path: str | os.PathLike[str], columns: Columns, overwrite: bool = False) -> None:
        self.path, self.columns, self.rows = Path(path), dict(columns), 0
        self._overwrite = overwrite
        self._format = output_format(self.path)
        if self._format != "parquet":
            for name, kind in columns.items():
                if kind.is_nested():
                    text = f"column {name!r} is {kind}, which a text file cannot hold; write .parquet, or leave the column out."
                    raise ValueError(f"{self.path}: {text}")
        check_place(self.path, overwrite)
        self._files = contextlib.ExitStack()
        self._writer: _Text | _Parquet

    def __enter__(self) -> TableOutput:
        make = _Parquet if self._format == "parquet" else _Text
        with self._disk():
            self._written = self._files.enter_context(workspace(self.path)) / self.path.name
            try:
                self._writer = make(self._written, self.columns, self.path)
            except BaseException:
                self._files.close()
                raise
        return self

    def write(self, frame: pl.DataFrame) -> None:
        """Add rows; the frame has the columns."""
        with self._disk():
            self._writer.write(frame)
        self.rows += len(frame)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is not None:
                self._writer.abort()
                return
            with self._disk():
                self._writer.close()
                if self._format == "parquet":
                    arrived = int(pl.scan_parquet(utf8_path(self._written), glob=False).select(pl.len()).collect().item())
                    if arrived != self.rows:
                        raise RuntimeError(f"{self.path}: {arrived} of {self.rows} rows arrived in the file; it was not kept.")
                check_place(self.path, self._overwrite)
                publish(self._written, self.path)
        finally:
            self._files.close()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pl.exceptions.PolarsError) as error:
            if isinstance(error, FileExistsError):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise OSError(f"{self.path}: not written ({reason}); see that its folder can be written to and has room.") from error


def output_format(path: Path) -> str:
    """`"parquet"`, `"csv"` or `"tsv"`; `ValueError` for an unknown ending."""
    endings = [s.lower() for s in path.suffixes]
    packed = endings[-1:] == [".gz"]
    ending = (endings[:-1] if packed else endings)[-1:]
    if ending in ([".csv"], [".tsv"]) or (ending == [".parquet"] and not packed):
        return ending[0][1:]
    raise ValueError(f"{path}: the ending says no format for the output; use {ENDINGS}.")


def check_place(path: Path, overwrite: bool) -> None:
    """`OSError` where a file cannot be put there: there is one that may not be replaced, or a folder, or no folder for it."""
    check_file(path, overwrite)
    if not path.parent.is_dir():
        if path.parent.exists():
            raise NotADirectoryError(f"{path.parent} is a file, so that there is no place for {path.name}; give another output.")
        raise FileNotFoundError(f"{path.parent} does not exist; make that folder, or give another output.")


class _Text:
    """CSV or TSV, also packed."""

    def __init__(self, aside: Path, columns: Columns, path: Path) -> None:
        self._separator = "\t" if output_format(path) == "tsv" else ","
        self._file: IO[bytes] = gzip.open(aside, "wb") if path.suffix.lower() == ".gz" else open(aside, "wb")  # type: ignore[assignment]
        pl.DataFrame(schema=columns).write_csv(self._file, separator=self._separator)

    def write(self, frame: pl.DataFrame) -> None:
        frame.write_csv(self._file, separator=self._separator, include_header=False)

    def close(self) -> None:
        self._file.close()

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class _Parquet:
    """Parquet. Polars pulls frames from a thread of its own, and cuts them into row groups as it goes."""

    def __init__(self, aside: Path, columns: Columns, path: Path) -> None:
        self._path, self._columns = aside, columns
        self._frames: queue.Queue[pl.DataFrame | None] = queue.Queue(_WAITING)
        self._stop = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="keras_dlrm-parquet", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            # Through a handle, so that a folder that is gone is an error of the system's.
            with open(self._path, "wb") as file:
                register_io_source(lambda *_: self._pulled(), schema=self._columns).sink_parquet(file)
        except BaseException as error:  # also what Polars panics with
            self._error = error

    def _pulled(self) -> Iterator[pl.DataFrame]:
        yield pl.DataFrame(schema=self._columns)
        while (frame := self._frames.get()) is not None:
            yield frame
        if self._stop:
            raise RuntimeError("given up")

    def _put(self, frame: pl.DataFrame | None) -> None:
        while True:
            if not self._thread.is_alive():
                raise self._error or RuntimeError("the thread that writes has ended")
            with contextlib.suppress(queue.Full):
                return self._frames.put(frame, timeout=0.2)

    def write(self, frame: pl.DataFrame) -> None:
        self._put(frame)

    def close(self) -> None:
        self._put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        self._stop = True
        with contextlib.suppress(BaseException):
            self._put(None)
        self._thread.join()
