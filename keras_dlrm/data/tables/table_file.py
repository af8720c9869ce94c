"""A file of a table: its columns, and its rows in blocks."""

import contextlib
import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.jobs.staging import fingerprint
from keras_dlrm.data.preprocessor.block import Block

# Most rows that are in memory at once, of each block that is under way.
BLOCK_ROWS = 65_536


class TableFile(ABC):
    """A file of rows; `path` is where it is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def columns(self) -> list[str] | None:
        """Names of its columns; none where the file is empty, `None` where the rows have them one by one."""

    @abstractmethod
    def blocks(self, names: Sequence[str], place: dict[str, int] | None = None) -> Iterator[Block]:
        """Some columns of its rows from `place` on, the `Block.place` of the last block that is known; all by default.

        Raises:
            ValueError: the file cannot be read.
        """

    def size(self) -> int:
        """Size relative to other files, at least 1."""
        return max(self.path.stat().st_size, 1)

    def rows(self) -> int | None:
        """Number of rows that it says it has, or `None` where it does not say."""
        return None

    def types(self, names: Sequence[str]) -> tuple[dict[str, Any], bool]:
        """Polars types of some columns, of those that the file has, and whether it has rows."""
        block = next(self.blocks(names), None)
        if block is None:
            return dict.fromkeys(names, pl.String), False
        return {name: block.series(name, np.arange(0)).dtype for name in names}, True

    def fingerprint(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON values that tell whether some columns of it are still the same."""
        return fingerprint(self.path)


@contextlib.contextmanager
def readable(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what says that a file cannot be read, `errors` too, into a `ValueError` that names it."""
    # A file may be broken in a way that Polars did not think of: it panics then.
    of_frames: tuple[type[BaseException], ...] = (pl.exceptions.PolarsError, pl.exceptions.PanicException, *errors)
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}. Copy or fetch the file again.") from error
    except of_frames as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"{path} cannot be read as a table: {reason}.") from error
