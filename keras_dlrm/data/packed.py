"""Read a processed directory: the schema, the preprocessor and memory-mapped splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dlrm.data import format as layout
from keras_dlrm.schema import Schema

if TYPE_CHECKING:
    from keras_dlrm.data.dataset import SplitDataset
    from keras_dlrm.data.preprocessor import Preprocessor

Batch = dict[str, np.ndarray]


def open(directory: str | os.PathLike[str]) -> ClickLog:
    """Open a processed directory. Nothing is read but its description; values were validated when it was written.

    Args:
        directory: What `kd.data.tables.preprocess`, `kd.data.criteo.preprocess`, `PlantedClickLog.write` or a
            `PackedWriter` wrote.

    Returns:
        The `ClickLog`.

    Raises:
        FileNotFoundError: no such directory.
        ValueError: not a processed directory, another version of the format, or a damaged one.

    Example:

    ```python
    data = kd.data.open("criteo-processed")
    model = kd.models.DLRM(data.schema, embedding_dim=16, bottom_mlp=[512, 256, 64, 16], top_mlp=[512, 256, 1])
    model.fit(data.split("train").dataset(2048, shuffle=True), validation_data=data.split("valid").dataset(8192))
    ```
    """
    return ClickLog(Path(directory))


class ClickLog:
    """A processed directory. See `open`.

    Args:
        directory: The directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = layout.read_manifest(directory)
        path = directory / layout.SCHEMA
        try:
            self.schema = Schema.load(path)
        except FileNotFoundError as error:
            raise ValueError(f"{directory}: {layout.SCHEMA} is missing; write the directory again.") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); write the directory again.") from error

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """Maps raw named columns to the packed batches of this log, as when it was written."""
        from keras_dlrm.data.preprocessor import Preprocessor

        return Preprocessor.load(self.directory)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that the directory holds, in the order train, valid, test."""
        return tuple(s for s in layout.SPLITS if s in self.manifest["splits"])

    @property
    def best(self) -> dict[str, float] | None:
        """What the best possible model reaches on the test split: `"auc"` and `"logloss"` in expectation,
        `"drawn_auc"` and `"drawn_logloss"` on its labels.

        Known for planted logs only (see `PlantedClickLog.write`), `None` for others.
        """
        return self.manifest.get("best")

    def split(self, name: str) -> Split:
        """One split.

        Raises:
            KeyError: the directory has no such split.
            ValueError: one of its files is missing or damaged.
        """
        if name not in self.splits:
            raise KeyError(f"{self.directory} has no split {name!r}; it has {list(self.splits)}.")
        return Split(self.directory, name, self.schema, self.manifest["splits"][name])

    def __repr__(self) -> str:
        rows = ", ".join(f"{s}: {self.manifest['splits'][s]:,}" for s in self.splits)
        return f"ClickLog({str(self.directory)!r}, {rows})"


class Split:
    """Part of a click log. `len(part)` is its number of rows N.

    Args:
        directory: The processed directory.
        name: `"train"`, `"valid"` or `"test"`.
        schema: The log's schema.
        rows: Rows that the manifest promises.
    """

    def __init__(self, directory: Path, name: str, schema: Schema, rows: int) -> None:
        self.name = name
        self.schema = schema
        self._rows = rows
        self._arrays = {
            key: _map(layout.array_path(directory, name, key), dtype, (rows,) if width is None else (rows, width))
            for key, (dtype, width) in layout.array_specs(schema).items()
        }

    def __len__(self) -> int:
        return self._rows

    def arrays(self) -> tuple[Batch, np.ndarray]:
        """The whole split as read-only memory maps.

        Returns:
            `({"dense": float32 (N, n_dense), "sparse": int32 (N, W)[, "weights": float32 (N, W)]}, float32 (N,))`.
        """
        return {key: self._arrays[key] for key in self.schema.input_names}, self._arrays[layout.LABEL]

    def take(self, rows: Any) -> tuple[Batch, np.ndarray]:
        """Copies of some rows: `rows` is a slice or an array of row numbers; shapes as in `arrays`, with B rows."""
        batch = {key: np.array(self._arrays[key][rows]) for key in self.schema.input_names}
        return batch, np.array(self._arrays[layout.LABEL][rows])

    def batches(self, batch_size: int) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches in file order, the last one with what is left.

        Args:
            batch_size: Rows B of a batch.

        Returns:
            Iterator of `(batch, label)`: NumPy arrays as in `arrays`, with B rows.
        """
        size = check_batch_size(batch_size)
        return (self.take(slice(start, start + size)) for start in range(0, self._rows, size))

    def dataset(
        self,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        start_epoch: int = 0,
        start_batch: int = 0,
    ) -> SplitDataset:
        """A `keras.utils.PyDataset` for `model.fit`, `evaluate` and `predict` on every backend: see `SplitDataset`.

        Args:
            batch_size: Rows of a batch.
            shuffle: Whether each epoch is a permutation of all rows; it depends on `seed` and the epoch's number only.
            seed: Seed of the shuffle.
            drop_last: Whether to leave out a last batch with fewer than `batch_size` rows.
            start_epoch: Number of the first epoch.
            start_batch: Batches of the first epoch to skip, to resume in its middle.

        Raises:
            ValueError: the split holds no batch, or an argument is out of range.
        """
        from keras_dlrm.data.dataset import SplitDataset

        return SplitDataset(
            self,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            start_epoch=start_epoch,
            start_batch=start_batch,
        )

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {self._rows:,} rows)"


def check_batch_size(batch_size: int) -> int:
    """`batch_size` as an int, or `ValueError`."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be an integer of at least 1.")
    return int(batch_size)


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    again = "Write the directory again."
    if not path.is_file():
        raise ValueError(f"{path} is missing, though the manifest promises {shape[0]} rows. {again}")
    try:
        # An empty file cannot be mapped.
        array = np.load(path, mmap_mode="r" if 0 not in shape else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut short ({path.stat().st_size} bytes: {error}). {again}") from error
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{path} holds {array.dtype} {array.shape}; the schema needs {dtype} {shape}. {again}")
    return array
