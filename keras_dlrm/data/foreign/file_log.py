"""A click log in the files of another program, with the interface of a processed directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.packed.packed import ClickLog, Split
from keras_dlrm.data.packed.packed import open as open_log
from keras_dlrm.data.packed.split_rows import Rows
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.schema.schema import Schema

if TYPE_CHECKING:
    from keras_dlrm.data.preprocessor.preprocessor import Preprocessor

BLOCK = 65_536


class FileLog:
    """Files of another program, read as they are: what `kd.data.mlperf.open` and its like return.

    It is used as a `ClickLog` is. Values are checked when they are read, as nobody knows who wrote them.

    Args:
        directory: Where the files are.
        schema: Fitted schema.
        parts: Rows by split.
    """

    best = None  # what the best possible model reaches; known for planted logs only

    def __init__(self, directory: Path, schema: Schema, parts: Mapping[str, Rows]) -> None:
        self.directory = directory.absolute()
        self.schema = schema
        self._parts = dict(parts)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order train, valid, test."""
        return tuple(s for s in layout.SPLITS if s in self._parts)

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """Checks and packs columns that hold ids and transformed counts: the files do not tell how they were made."""
        from keras_dlrm.data.preprocessor.preprocessor import Preprocessor

        return Preprocessor.identity(self.schema)

    def split(self, name: str) -> Split:
        """One split; `KeyError` where there is none of that name."""
        if name not in self._parts:
            raise KeyError(f"{self.directory} has no split {name!r}; it has {list(self.splits)}.")
        return Split(name, self.schema, self._parts[name])

    def write(
        self,
        output: str | os.PathLike[str],
        overwrite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> ClickLog:
        """Convert to a processed directory, block by block.

        Args:
            output: Directory to write: complete or absent.
            overwrite: Whether a processed directory there may be replaced.
            progress: Called as `progress(rows_done, rows_total)`.

        Raises:
            FileExistsError: `output` exists.
            ValueError: a value cannot be used; the message names file, row and column.
        """
        total, done = sum(len(rows) for rows in self._parts.values()), 0
        with PackedWriter(output, self.schema, overwrite=overwrite) as writer:
            for name in self.splits:
                writer.begin(name)
                for batch, label in self._parts[name].batches(BLOCK):
                    writer.append(name, batch, label)
                    done += len(label)
                    if progress is not None:
                        progress(done, total)
        return open_log(output, verify=False)

    def __repr__(self) -> str:
        rows = ", ".join(f"{s}: {len(self._parts[s]):,}" for s in self.splits)
        return f"FileLog({str(self.directory)!r}, {rows})"
