"""Parquet files, and tables in memory, in blocks of rows."""

from __future__ import annotations

import hashlib
import io
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.tables.block import BLOCK_ROWS, Block, Faults, TableFile
from keras_dlrm.schema.packing import column_names

if TYPE_CHECKING:
    import polars as pl


# Rows that are decoded at once.
SLICE_ROWS = 2**18


class FrameBlock(Block):
    """Rows as a Polars frame.

    Args:
        numbers: int64 (n,), the rows' numbers in the file, counted from 0.
        faults: What is wrong with them.
        frame: The columns.
    """

    def __init__(self, numbers: np.ndarray, faults: Faults, frame: pl.DataFrame) -> None:
        super().__init__(numbers, faults)
        self.frame = frame


class _Frames(TableFile):
    """A table that Polars reads."""

    unit = "row"

    @abstractmethod
    def types(self, names: Sequence[str] | None = None) -> dict[str, pl.DataType]:
        """Types of some columns, by default of all; none where the table is empty.

        Raises:
            ValueError: the file cannot be read.
        """

    @abstractmethod
    def rows(self) -> int:
        """How many rows the table says it has."""

    @abstractmethod
    def _scan(self, names: Sequence[str]) -> pl.LazyFrame:
        """Some columns."""

    def blocks(self, names: Sequence[str], place: dict[str, int] | None = None) -> Iterator[Block]:
        """The rows from `place` on, the `Block.place` of the last block that is known; all of them by default.

        Raises:
            ValueError: the file cannot be read.
        """
        row, total = place["row"] if place else 0, self.rows()
        if not total:
            return
        with _Readable(self.path):
            table = self._scan(names)
        while row < total:
            # `collect_batches` reads ahead without a bound; a slice takes the row groups that it lies in.
            with _Readable(self.path):
                batch = table.slice(row, SLICE_ROWS).collect()
            if not len(batch):
                return
            for frame in batch.iter_slices(BLOCK_ROWS):
                numbers = np.arange(row, row + len(frame))
                block = FrameBlock(numbers, Faults(str(self.path), self.unit, numbers), frame)
                row += len(frame)
                block.place, block.share = {"row": row}, row / total
                yield block


class ParquetFile(_Frames):
    """A `.parquet` file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def columns(self) -> list[str]:
        """Names of the columns; none where the file is empty."""
        return list(self.types())

    def types(self, names: Sequence[str] | None = None) -> dict[str, pl.DataType]:
        """Types of the columns by name; none where the file is empty."""
        with _Readable(self.path):
            known = self._file().collect_schema()
        return {name: kind for name, kind in known.items() if names is None or name in names}

    def rows(self) -> int:
        """How many rows the file says it has."""
        import polars as pl

        with _Readable(self.path):
            return int(self._file().select(pl.len()).collect().item())

    def _scan(self, names: Sequence[str]) -> pl.LazyFrame:
        return self._file().select(names)

    def _file(self) -> pl.LazyFrame:
        import polars as pl

        # A writer that had no rows leaves an empty file.
        if not self.path.stat().st_size:
            return pl.LazyFrame()
        # The path is a file's, though its name may look like a pattern, an address or a home folder.
        return pl.scan_parquet(self.path.absolute(), glob=False)


class FrameFile(_Frames):
    """A table in memory, read as a file is.

    Args:
        data: DataFrame of pandas or Polars, Arrow table, or mapping of named columns.
        name: What messages call it.
    """

    def __init__(self, data: Any, name: str = "the frame") -> None:
        self.path = Path(name)
        if hasattr(data, "collect") and hasattr(data, "collect_schema"):
            data = data.collect()
        self._data = data
        self._columns = column_names(data)

    def columns(self) -> list[str]:
        """Names of the columns."""
        return [str(name) for name in self._columns]

    def types(self, names: Sequence[str] | None = None) -> dict[str, pl.DataType]:
        """Types of the columns by name."""
        return dict(self._frame(self.columns() if names is None else names).schema)

    def rows(self) -> int:
        """Number of rows."""
        return len(self._frame(self.columns()[:1])) if self._columns else 0

    def size(self) -> int:
        """Number of rows, at least 1."""
        return max(self.rows(), 1)

    def fingerprint(self, names: Sequence[str]) -> dict[str, Any]:
        """Checksum of some columns."""
        known = hashlib.sha256(repr(list(names)).encode())
        for part in self._frame(names).iter_slices(BLOCK_ROWS) if self._columns else ():
            content = io.BytesIO()
            part.rechunk().write_ipc(content)
            known.update(content.getbuffer())
        return {"frame": str(self.path), "rows": self.rows(), "sha256": known.hexdigest()}

    def _frame(self, names: Sequence[str]) -> pl.DataFrame:
        return raw.frame(self._data, list(names), raw.Where(str(self.path)))

    def _scan(self, names: Sequence[str]) -> pl.LazyFrame:
        return self._frame(names).lazy()


class _Readable:
    """Turns what Polars says of a file that it cannot read, inside the `with` block, into an error that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import polars as pl

        # A file may be broken in a way that Polars did not think of: it panics then.
        if isinstance(error, (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)):
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ValueError(f"{self._path} cannot be read as a table: {reason}.") from error
