"""Parquet files in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_dlrm.data.table_block import BLOCK_ROWS, Block, Faults

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


class ParquetFile:
    """A `.parquet` file.

    Args:
        path: The file.
    """

    unit = "row"

    def __init__(self, path: Path) -> None:
        self.path = path

    def columns(self) -> list[str]:
        """Names of the columns; none where the file is empty."""
        return list(self.types())

    def types(self) -> dict[str, pl.DataType]:
        """Types of the columns by name.

        Raises:
            ValueError: the file cannot be read.
        """
        with _Readable(self.path):
            return dict(self._scan().collect_schema())

    def rows(self) -> int:
        """How many rows the file says it has."""
        import polars as pl

        with _Readable(self.path):
            return int(self._scan().select(pl.len()).collect().item())

    def _scan(self) -> pl.LazyFrame:
        import polars as pl

        # A writer that had no rows leaves an empty file.
        if not self.path.stat().st_size:
            return pl.LazyFrame()
        # The path is a file's, though its name may look like a pattern, an address or a home folder.
        return pl.scan_parquet(self.path.absolute(), glob=False)

    def blocks(self, names: Sequence[str], place: dict[str, int] | None = None) -> Iterator[Block]:
        """The rows from `place` on, the `Block.place` of the last block that is known; all of them by default.

        Raises:
            ValueError: the file cannot be read.
        """
        row, total = place["row"] if place else 0, self.rows()
        if not total:
            return
        with _Readable(self.path):
            table = self._scan().select(names)
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
