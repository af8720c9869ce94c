"""Rows to be scored: packed batches, and what is kept beside their predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.packed.packed import Split
from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.preprocessor.unseen import Tally
from keras_dlrm.data.tables.block import Block, TableFile
from keras_dlrm.data.tables.columns import Columns
from keras_dlrm.data.tables.frames import FrameBlock, FrameFile, ParquetFile
from keras_dlrm.data.tables.hive import PartitionedFile
from keras_dlrm.data.tables.records import RecordBlock, RecordFile
from keras_dlrm.data.tables.text import TextBlock, TextFile

Types = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """n rows.

    Args:
        batch: Their packed batch.
        beside: What is kept beside their predictions, n rows.
    """

    batch: dict[str, np.ndarray]
    beside: pl.DataFrame

    def __len__(self) -> int:
        return len(next(iter(self.batch.values())))

    def cut(self, start: int, stop: int) -> Part:
        """The rows [start, stop)."""
        return Part({key: array[start:stop] for key, array in self.batch.items()}, self.beside[start:stop])


def regrouped(parts: Iterable[Part], size: int) -> Iterator[Part]:
    """The same rows in parts of `size`, the last one with what is left."""
    held: list[Part] = []
    rows = 0
    for part in parts:
        held.append(part)
        rows += len(part)
        if rows < size:
            continue
        whole = _joined(held)
        last = rows - rows % size
        yield from (whole.cut(start, start + size) for start in range(0, last, size))
        held, rows = [whole.cut(last, rows)], rows - last
    if rows:
        yield _joined(held)


def _joined(parts: Sequence[Part]) -> Part:
    parts = [part for part in parts if len(part)] or list(parts)
    if len(parts) == 1:
        return parts[0]
    batch = {key: np.concatenate([part.batch[key] for part in parts]) for key in parts[0].batch}
    return Part(batch, pl.concat([part.beside for part in parts]))


def split_rows(split: Split, size: int, unseen: Tally) -> Iterator[Part]:
    """The rows of a packed split, with their number and label; unseen values are added up."""
    first = 0
    for batch, label, *_ in split.batches(size):
        unseen.add_packed(split.schema, batch.get("sparse"))
        numbers = pl.Series("row", np.arange(first, first + len(label), dtype=np.int64))
        yield Part(batch, pl.DataFrame([numbers, pl.Series(split.schema.label, label)]))
        first += len(label)


class FileRows:
    """The rows of files, through a preprocessor.

    Args:
        files: The files.
        columns: Works off their columns; it must know all vocabularies and statistics.
        ids: Columns that are kept beside the predictions.
        bad: What to do with rows that cannot be used.

    Attributes:
        types: Polars types of the ids.
        seen: Rows read so far, those that were left out included.

    Raises:
        ValueError: the files have an id column in different types.
    """

    def __init__(self, files: Sequence[TableFile], columns: Columns, ids: Sequence[str], bad: BadRows) -> None:
        self._files, self._columns, self._ids, self._bad = files, columns, list(ids), bad
        self.names = list(dict.fromkeys([*columns.names, *ids]))
        self.types: Types = {}
        self.seen = 0
        first: dict[str, Path] = {}
        types = [(file, *_types(file, self._ids)) for file in files if self._ids]
        # What a file without rows says of its columns counts only where no other file says anything.
        for file, kinds, rows in sorted(types, key=lambda entry: not entry[2]):
            for name, kind in kinds.items():
                if self.types.get(name, pl.Null) == pl.Null:
                    self.types[name], first[name] = kind, file.path
                elif rows and kind not in (self.types[name], pl.Null):
                    raise ValueError(
                        f"{file.path}: id column {name!r} is {kind}, in {first[name]} it is {self.types[name]}; make the files "
                        "agree, or score them apart."
                    )

    def parts(self, executor: Executor, progress: Callable[[int, int | None], None]) -> Iterator[Part]:
        """The rows that can be used, in the order of the files.

        Args:
            executor: Its threads work on the columns.
            progress: Called with the rows read so far and an estimate of all rows.

        Raises:
            ValueError: a row cannot be used, as `bad` has it; a file that cannot be read, or changed meanwhile.
        """
        sizes = [file.size() for file in self._files]
        for k, file in enumerate(self._files):
            was, rows = file.fingerprint(self.names), 0
            for block in file.blocks(self.names):
                _id_faults(block, self._ids)
                packed = self._columns.work(block, executor)
                good = np.arange(len(block))
                if block.faults:
                    self._bad.add(*block.faults.first())
                    good = np.flatnonzero(~block.faults.bad)
                batch = {"dense": packed.dense, "sparse": packed.sparse}
                rows += len(block)
                self.seen += len(block)
                inputs = {name: batch[name] for name in self._columns.schema.input_names}
                yield Part(inputs, _ids(block, self.types, good))
                share = (sum(sizes[:k]) + sizes[k] * block.share) / sum(sizes)
                progress(self.seen, max(self.seen, round(self.seen / share)) if share else None)
            if file.fingerprint(self.names) != was or rows != _promised(file, rows):
                raise ValueError(f"{file.path}: changed while it was read; run again when it is complete.")


def _promised(file: TableFile, rows: int) -> int:
    """The number of rows that the file says it has; `rows` where it does not say."""
    if isinstance(file, PartitionedFile):
        return _promised(file.file, rows)
    return file.rows() if isinstance(file, (ParquetFile, FrameFile)) else rows


def _types(file: TableFile, names: Sequence[str]) -> tuple[Types, bool]:
    """Types of some columns, and whether the file has rows."""
    own = file.file if isinstance(file, PartitionedFile) else file
    texts = dict.fromkeys(names, pl.String)
    if isinstance(own, (ParquetFile, FrameFile)):
        columns = own.columns()
        known = own.types([name for name in names if name in columns])
        # The others are those that the folders name; an empty file has none of them.
        return {**(texts if columns else {}), **{name: _plain(kind) for name, kind in known.items()}}, bool(own.rows())
    if isinstance(own, TextFile):
        return texts, bool(own.columns())
    if not isinstance(own, RecordFile):
        raise TypeError(f"{type(own).__name__}: no file of a table.")
    # Examples say what kind of list a feature is one by one.
    block = next(iter(file.blocks(names)), None)
    if block is None:
        return texts, False
    return {name: _plain(block.flat(name)[0].dtype) for name in names}, True  # type: ignore[attr-defined]


def _plain(kind: Any) -> Any:
    # Two files number the values of such a column differently.
    return pl.String if isinstance(kind, (pl.Categorical, pl.Enum)) else kind


def _id_faults(block: Block, names: Sequence[str]) -> None:
    if isinstance(block, RecordBlock):
        for name in names:
            lengths = block.flat(name)[3]
            block.faults.add(lengths > 1, name, lambda row, name=name: block.value(name, row), "must be a single value")  # type: ignore[misc]


def _ids(block: Block, types: Types, good: np.ndarray) -> pl.DataFrame:
    """The id columns of the good rows."""
    columns = []
    for name, kind in types.items():
        if isinstance(block, TextBlock):
            values = block.texts[name].take(good).series()
        elif isinstance(block, FrameBlock):
            values = block.frame[name].gather(good)
        elif isinstance(block, RecordBlock):
            flat, rows, _, _ = block.flat(name)
            place = np.full(len(block), -1, np.int64)
            place[rows] = np.arange(len(rows))
            places = pl.Series(place[good])
            values = flat.gather(places.set(places < 0, None))
        else:
            raise TypeError(f"{type(block).__name__}: no block of a table.")
        columns.append(values.cast(kind).alias(name))
    return pl.DataFrame(columns) if columns else pl.DataFrame()
