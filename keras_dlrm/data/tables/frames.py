"""Reader of Parquet files and of frames in memory, in blocks of rows."""

import hashlib
import io
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.preprocessor.block import Block, Faults, FrameBlock
from keras_dlrm.data.tables.table_file import BLOCK_ROWS, TableFile, readable
from keras_dlrm.files.paths import utf8_path
from keras_dlrm.schema.packing import column_names

# Rows that are decoded at once.
SLICE_ROWS = 2**18


class _Frames(TableFile):
    """A table that Polars reads."""

    unit = "row"

    @abstractmethod
    def rows(self) -> int:
        """Number of rows that the table says it has."""

    @abstractmethod
    def scan(self, names: Sequence[str] | None = None) -> pl.LazyFrame:
        """Some columns, by default all."""

    def schema(self, names: Sequence[str] | None = None) -> dict[str, pl.DataType]:
        """Types of some columns, by default of all; none where the table is empty."""
        with readable(self.path, OSError):
            return dict(self.scan(names).collect_schema())

    def columns(self) -> list[str]:
        """Names of its columns; none where the table is empty."""
        return list(self.schema())

    def types(self, names: Sequence[str]) -> tuple[dict[str, Any], bool]:
        kinds = self.schema([name for name in names if name in self.columns()])
        # Two files number the values of such a column differently.
        numbered = (pl.Categorical, pl.Enum)
        plain = {n: pl.String if isinstance(kinds[n], numbered) else kinds[n] for n in names if n in kinds}
        return plain, bool(self.rows())

    def blocks(self, names: Sequence[str], place: dict[str, int] | None = None) -> Iterator[Block]:
        row, total = place["row"] if place else 0, self.rows()
        if not total:
            return
        with readable(self.path, OSError):
            table = self.scan(names)
        while row < total:
            # `collect_batches` reads ahead without a bound; a slice takes the row groups that it is in.
            with readable(self.path, OSError):
                batch = table.slice(row, SLICE_ROWS).collect()
            if not len(batch):
                return
            for frame in batch.iter_slices(BLOCK_ROWS):
                numbers = np.arange(row, row + len(frame))
                block = FrameBlock(Faults(str(self.path), self.unit, numbers), frame)
                row += len(frame)
                block.place, block.share = {"row": row}, row / total
                yield block


class ParquetFile(_Frames):
    """A `.parquet` file."""

    def rows(self) -> int:
        with readable(self.path, OSError):
            return int(self.scan().select(pl.len()).collect().item())

    def nulls(self, names: Sequence[str]) -> dict[str, int]:
        """Number of missing values by column."""
        with readable(self.path, OSError):
            counts = self.scan(names).null_count().collect(engine="streaming")
        return dict(zip(names, counts.row(0), strict=True))

    def scan(self, names: Sequence[str] | None = None) -> pl.LazyFrame:
        # A writer without rows leaves an empty file. A file's name may look like a pattern, an address or a home.
        empty = not self.path.stat().st_size
        table = pl.LazyFrame() if empty else pl.scan_parquet(utf8_path(self.path), glob=False)
        return table if names is None else table.select(names)


class FrameFile(_Frames):
    """A table in memory, read as a file is: DataFrame of pandas or Polars, Arrow table, or mapping of named columns.

    The columns `times` may hold dates of pandas, NumPy or Python.
    """

    def __init__(self, data: Any, name: str = "the frame", times: Collection[str] = ()) -> None:
        super().__init__(Path(name))
        if hasattr(data, "collect") and hasattr(data, "collect_schema"):
            data = data.collect()
        self._columns = column_names(data)
        self._data, self._times = data, times

    def columns(self) -> list[str]:
        return [str(name) for name in self._columns]

    def rows(self) -> int:
        return len(self._frame(self.columns()[:1])) if self._columns else 0

    def size(self) -> int:
        return max(self.rows(), 1)

    def fingerprint(self, names: Sequence[str]) -> dict[str, Any]:
        known = hashlib.sha256(repr(list(names)).encode())
        for part in self._frame(names).iter_slices(BLOCK_ROWS) if self._columns else ():
            content = io.BytesIO()
            part.rechunk().write_ipc(content)
            known.update(content.getbuffer())
        return {"frame": str(self.path), "rows": self.rows(), "sha256": known.hexdigest()}

    def _frame(self, names: Sequence[str]) -> pl.DataFrame:
        return raw.frame(self._data, list(names), raw.Where(str(self.path)), self._times)

    def scan(self, names: Sequence[str] | None = None) -> pl.LazyFrame:
        return self._frame(self.columns() if names is None else names).lazy()
