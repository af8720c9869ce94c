"""Rows of a split: the interface that `Split` needs, and the rows of a processed directory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_dlrm.data.packed import format as layout
from keras_dlrm.files.mapped import MappedArray
from keras_dlrm.schema.schema import Schema

Batch = dict[str, np.ndarray]


class Rows(ABC):
    """Rows of a click log as packed batches. `len(rows)` is their number N."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: Any) -> tuple[Batch, np.ndarray]:
        """Copies of some rows: `rows` is a slice or an array of row numbers."""

    def arrays(self) -> tuple[Batch, np.ndarray]:
        """All rows."""
        return self.take(slice(0, len(self)))

    def labels(self) -> np.ndarray:
        """All labels, float32 (N,)."""
        return self.arrays()[1]

    def sample_weights(self, rows: Any) -> np.ndarray | None:
        """Copies of some row weights, float32 (B,), or `None` where the log has none."""
        return None

    def batches(self, size: int) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches of `size` rows in file order, the last one with what is left."""
        return (self.take(slice(start, start + size)) for start in range(0, len(self), size))


class NamedRows(Protocol):
    """Rows with a name and a schema: a `Split`, as a dataset reads it."""

    name: str
    schema: Schema

    def __len__(self) -> int: ...

    def take(self, rows: Any) -> tuple[Batch, np.ndarray]:
        """See `Rows.take`."""

    def sample_weights(self, rows: Any) -> np.ndarray | None:
        """See `Rows.sample_weights`."""


class PackedRows(Rows):
    """A split of a processed directory; `ValueError` where a file is missing, damaged or does not fit the schema."""

    def __init__(self, directory: Path, split: str, schema: Schema, rows: int) -> None:
        self._rows = rows
        self._names = schema.input_names
        self._arrays = {
            key: _open(layout.array_path(directory, split, key), dtype, (rows,) if width is None else (rows, width))
            for key, (dtype, width) in layout.array_specs(schema).items()
        }

    def __len__(self) -> int:
        return self._rows

    def take(self, rows: Any) -> tuple[Batch, np.ndarray]:
        return {key: self._arrays[key].take(rows) for key in self._names}, self._arrays[layout.LABEL].take(rows)

    def arrays(self) -> tuple[Batch, np.ndarray]:
        return {key: self._arrays[key].array for key in self._names}, self.labels()

    def labels(self) -> np.ndarray:
        return self._arrays[layout.LABEL].array

    def sample_weights(self, rows: Any) -> np.ndarray | None:
        weights = self._arrays.get(layout.SAMPLE_WEIGHT)
        return None if weights is None else weights.take(rows)


def _open(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> MappedArray:
    again = "Write the directory again."
    try:
        array = MappedArray.npy(path, again)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing, though the manifest promises {shape[0]} rows. {again}") from error
    if array.shape != shape or array.dtype != dtype or array.order != "C":
        raise ValueError(f"{path} holds {array.dtype} {array.shape}; the schema needs {dtype} {shape}. {again}")
    return array
