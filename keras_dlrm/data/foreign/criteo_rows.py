"""Rows of Criteo logs that another program preprocessed, checked as they are read."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.foreign.pieces import Arrays, Pieces
from keras_dlrm.data.packed.split import Batch, Split
from keras_dlrm.data.preprocessor.dense import log1p
from keras_dlrm.schema.criteo import CATEGORICAL, DENSE, LABEL


@dataclasses.dataclass(eq=False, repr=False)
class CriteoSplit(Split):
    """A split in files of another program.

    Args:
        name: `"train"`, `"valid"` or `"test"`.
        schema: The log's schema.
        pieces: The files. The label is what their first column begins with.
        columns: The pieces' arrays → `(label (B,), dense (B, 13), sparse (B, W))`.
        logarithm: Whether the dense values are counts, which become `log(x + 1)`.
        modulo: Numbers that ids are taken modulo of, one for each place of a row (W,), or `None`.
    """

    pieces: Pieces
    columns: Callable[[Arrays], Arrays]
    logarithm: bool
    modulo: np.ndarray | None

    def __post_init__(self) -> None:
        self._hotness = [column.hotness for column in self.schema.categorical]
        sizes = [column.vocabulary_size or 0 for column in self.schema.categorical]
        self._sizes = np.repeat(sizes, self._hotness).astype(np.int32)

    def __len__(self) -> int:
        return len(self.pieces)

    def take(self, rows: Any) -> tuple[Batch, np.ndarray]:
        return self._finish(self.pieces.take(rows), range(len(self))[rows] if isinstance(rows, slice) else rows)

    @property
    def labels(self) -> np.ndarray:
        labels, done = np.empty(len(self), np.float32), 0
        for first, *_ in self.pieces.first_columns().blocks(2**18):
            label = first.reshape(len(first), -1)[:, 0]
            numbers = range(done, done + len(label))
            self._check_labels(label, numbers)
            labels[numbers.start : numbers.stop] = label
            done = numbers.stop
        return labels

    def _batches(self, size: int) -> Iterator[tuple[Batch, np.ndarray]]:
        done = 0
        for block in self.pieces.blocks(size):
            yield self._finish(block, range(done, done + len(block[0])))
            done += len(block[0])

    def _finish(self, arrays: Arrays, numbers: Sequence[int]) -> tuple[Batch, np.ndarray]:
        label, dense, sparse = self.columns(arrays)
        names = np.repeat(CATEGORICAL, self._hotness).tolist()
        self._check_labels(label, numbers)
        if self.logarithm:
            dense, sparse = self._whole(dense, DENSE, numbers), self._whole(sparse, names, numbers)
            self._check(dense, dense < 0, DENSE, "must be a count of at least 0", numbers)
            dense = log1p(dense)
            # Before the modulo, which would make an id of it.
            self._check(sparse, sparse < 0, names, "must be an id of at least 0", numbers)
        else:
            self._check(dense, ~np.isfinite(dense), DENSE, "must be a finite number", numbers)
        if self.modulo is not None:
            sparse = sparse % self.modulo
        bad = (sparse < 0) | (sparse >= self._sizes)
        if bad.any():
            size = self._sizes[np.argwhere(bad)[0][1]]
            self._check(sparse, bad, names, f"must be an id in 0 … {size - 1}: there are {size} rows in its table", numbers)
        batch = {"dense": np.ascontiguousarray(dense, np.float32), "sparse": np.ascontiguousarray(sparse, np.int32)}
        return batch, label.astype(np.float32)

    def _whole(self, values: np.ndarray, names: Sequence[str], numbers: Sequence[int]) -> np.ndarray:
        """Values as int32; the reference keeps some of them as floats."""
        if values.dtype == np.int32:
            return values
        with np.errstate(invalid="ignore"):
            integers = values.astype(np.int32)
        self._check(values, integers != values, names, "must be an integer below 2^31", numbers)
        return integers

    def _check_labels(self, label: np.ndarray, numbers: Sequence[int]) -> None:
        self._check(label, (label != 0) & (label != 1), [LABEL], "must be 0 or 1", numbers)

    def _check(self, values: np.ndarray, bad: np.ndarray, names: Sequence[str], rule: str, numbers: Sequence[int]) -> None:
        if bad.any():
            row, column = (*np.argwhere(bad)[0], 0)[:2]
            name, place = self.pieces.place(int(numbers[row]))
            value = values[tuple(np.argwhere(bad)[0])]
            raise ValueError(f"{name}, row {place}, column {names[column]}: value {value} {rule}.")


def check_days(directory: Path, days: Collection[int], example: str, last: str) -> None:
    """`FileNotFoundError` unless a directory has the files of days 0, 1, … and of at least two.

    `example` names such a file, and `last` says what the last day is.
    """
    if len(days) < 2:
        raise FileNotFoundError(
            f"{directory} has {len(days)} files of the form {example}; at least two days are needed: the last one is {last}."
        )
    missing = sorted(set(range(max(days) + 1)) - set(days))
    if missing:
        raise FileNotFoundError(f"{directory} has days up to {max(days)}, but not {missing}.")
