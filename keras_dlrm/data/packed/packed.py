"""Click logs that are read: `open` and `ClickLog`, of processed directories; `FileLog`, of other programs' files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.packed.one_label import LabelLog
from keras_dlrm.data.packed.split import PackedSplit, Split
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.schema.schema import Schema

if TYPE_CHECKING:
    from keras_dlrm.data.preprocessor.preprocessor import Preprocessor

BLOCK = 65_536


def open(directory: str | os.PathLike[str], verify: bool | None = None) -> ClickLog:
    """Open a processed directory. Values were validated when it was written; its files are checked to be as they were.

    Args:
        directory: What `kd.data.tables.preprocess`, `kd.data.criteo.preprocess`, `PlantedClickLog.write` or a
            `PackedWriter` wrote. The log stays that one when the program changes its working directory.
        verify: Whether all files are read once and compared with their checksums. By default they are where the arrays
            have no more than 1 GiB. The description, sizes and headers are checked in any case, and nothing again in other
            processes that the log is handed to. `keras-dlrm verify` reads all.

    Returns:
        The `ClickLog`.

    Raises:
        FileNotFoundError: no such directory.
        ValueError: not a processed directory, another version of the format, or a damaged one; the message names the file.
            With `verify=True` also one of the earlier version of the format, which has no checksums.

    Example:

    ```python
    data = kd.data.open("criteo-processed")
    model = kd.models.DLRM(data.schema, embedding_dim=16, bottom_mlp=[512, 256, 64, 16], top_mlp=[512, 256, 1])
    model.fit(data.split("train").dataset(2048, shuffle=True), validation_data=data.split("valid").dataset(8192))
    ```
    """
    return ClickLog(Path(directory), verify)


class _Log(ABC):
    """A click log in files."""

    directory: Path
    schema: Schema
    _sizes: Mapping[str, int]
    """Rows by split."""

    @abstractmethod
    def _split(self, name: str) -> Split:
        """A split that there is."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that there are, in the order train, valid, test."""
        return tuple(s for s in layout.SPLITS if s in self._sizes)

    def split(self, name: str) -> Split:
        """One split.

        Args:
            name: `"train"`, `"valid"` or `"test"`.

        Raises:
            KeyError: there is none of that name.
            ValueError: a file of it is damaged.
        """
        if name not in self.splits:
            raise KeyError(f"{self.directory} has no split {name!r}; it has {list(self.splits)}.")
        return self._split(name)

    def of_label(self, label: str) -> LabelLog:
        """The log as one of a single label, such as for a model of that label alone: rows without it are left out.

        Args:
            label: Name of one of the schema's labels.

        Returns:
            A log with `directory`, `schema`, `splits` and `split(name)`.

        Raises:
            ValueError: there is no such label; told when a split is opened.
        """
        return LabelLog(self, label)

    def __repr__(self) -> str:
        rows = ", ".join(f"{s}: {self._sizes[s]:,}" for s in self.splits)
        return f"{type(self).__name__}({str(self.directory)!r}, {rows})"


class ClickLog(_Log):
    """A processed directory. See `open`."""

    def __init__(self, directory: Path, verify: bool | None = None) -> None:
        self.manifest = layout.read_manifest(directory)
        self._sizes = self.manifest["splits"]
        # Whatever folder the program works in, and whatever a link leads to, when the rows are read.
        self.directory = directory.resolve()
        layout.check_files(self.directory, self.manifest, verify)
        path = self.directory / layout.SCHEMA
        try:
            self.schema = Schema.load(path)
        except FileNotFoundError as error:
            raise ValueError(f"{directory}: {layout.SCHEMA} is missing; write the directory again.") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); write the directory again.") from error

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """Maps raw named columns to the packed batches of this log, as when it was written."""
        from keras_dlrm.data.preprocessor.preprocessor import Preprocessor

        return Preprocessor.load(self.directory)

    def _split(self, name: str) -> Split:
        return PackedSplit(self.directory, name, self.schema, self._sizes[name])

    @property
    def best(self) -> dict[str, float] | None:
        """Scores of the best possible model on the test split: `"auc"` and `"logloss"` in expectation,
        `"drawn_auc"` and `"drawn_logloss"` on its labels.

        Known for planted logs only (see `PlantedClickLog.write`), `None` for others.
        """
        return self.manifest.get("best")


class FileLog(_Log):
    """Files of another program, read as they are: what `kd.data.mlperf.open` and its like return.

    It is used as a `ClickLog` is. Values are checked when they are read, as nobody knows who wrote them.

    Args:
        directory: Where the files are.
        schema: Fitted schema.
        parts: The splits, by name.
    """

    best = None  # what the best possible model reaches; known for planted logs only

    def __init__(self, directory: Path, schema: Schema, parts: Mapping[str, Split]) -> None:
        self.directory = directory.absolute()
        self.schema = schema
        self._parts = dict(parts)
        self._sizes = {name: len(rows) for name, rows in parts.items()}

    def _split(self, name: str) -> Split:
        return self._parts[name]

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """Checks and packs columns that hold ids and transformed counts: the files do not tell how they were made."""
        from keras_dlrm.data.preprocessor.preprocessor import Preprocessor

        return Preprocessor.identity(self.schema)

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
        tell = None if progress is None else lambda done, total, split: progress(done, total)
        with PackedWriter(output, self.schema, overwrite=overwrite) as writer:
            parts = {name: self._parts[name].batches(BLOCK) for name in self.splits}
            writer.extend(parts, sum(self._sizes.values()), tell)
        return open(output, verify=False)
