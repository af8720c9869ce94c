"""`Split`: part of a click log, for training and for reading; the rows behind it."""

from __future__ import annotations

import dataclasses
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.packed.order import BatchCut
from keras_dlrm.files.mapped import MappedArray
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer

if TYPE_CHECKING:
    from keras_dlrm.data.packed.dataset import SplitDataset

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class Split(ABC):
    """Part of a click log. `len(part)` is its number of rows N.

    Args:
        name: `"train"`, `"valid"` or `"test"`.
        schema: The log's schema.
    """

    name: str
    schema: Schema

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: Any) -> tuple[Batch, np.ndarray]:
        """Copies of some rows: `rows` is a slice or an array of row numbers; shapes as in `arrays`, with B rows.

        Raises:
            ValueError: a file was cut short in the meantime, or (of files that no `PackedWriter` checked) a value is
                not what its column may hold.
        """

    def arrays(self) -> tuple[Batch, np.ndarray]:
        """The whole split. Of a processed directory these are read-only memory maps; of other files, copies in memory.

        Returns:
            `({"dense": float32 (N, n_dense), "sparse": int32 (N, W)[, "weights": float32 (N, W)]}, float32 (N,))`; of T labels
            float32 (N, T), NaN where one is missing.
        """
        return self.take(slice(0, len(self)))

    @property
    def labels(self) -> np.ndarray:
        """The labels of the whole split alone, float32 (N,), or (N, T) of T labels."""
        return self.arrays()[1]

    def sample_weights(self, rows: Any = slice(None)) -> np.ndarray | None:
        """Copies of some row weights, float32 (B,), by default of all, or `None` where the schema names none.

        Args:
            rows: A slice or an array of row numbers.
        """
        return None

    def batches(self, batch_size: int) -> Iterator[tuple[Any, ...]]:
        """Batches in file order, the last one with what is left.

        Args:
            batch_size: Rows B of a batch.

        Returns:
            Iterator of `(batch, label)`: NumPy arrays as in `arrays`, with B rows; of `(batch, label, sample_weight)` where
            the schema names row weights.
        """
        size = integer("batches", "batch_size", batch_size)
        return self._batches(size) if self.schema.sample_weight is None else self._weighted_batches(size)

    def _batches(self, size: int) -> Iterator[tuple[Batch, np.ndarray]]:
        return (self.take(slice(start, start + size)) for start in range(0, len(self), size))

    def _weighted_batches(self, size: int) -> Iterator[tuple[Any, ...]]:
        first = 0
        for batch, label in self._batches(size):
            yield batch, label, self.sample_weights(slice(first, first + len(label)))
            first += len(label)

    def dataset(
        self,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        last: str = "keep",
        shard: tuple[int, int] = (0, 1),
        prefetch: int = 0,
        start_epoch: int = 0,
        start_batch: int = 0,
    ) -> SplitDataset:
        """A `keras.utils.PyDataset` for `model.fit`, `evaluate` and `predict` on every backend: see `SplitDataset`.

        Args:
            batch_size: Rows of a batch, on each worker.
            shuffle: Whether each epoch is a permutation of all rows; it depends on `seed` and the epoch's number only.
            seed: Seed of the shuffle.
            last: What becomes of a last batch with fewer than `batch_size` rows. `"keep"`: it is shorter. `"drop"`: it
                is left out. `"pad"`: it is filled up with rows of zeros and padding ids whose `sample_weight` is 0; all
                batches then come as `(batch, label, sample_weight)`, as they always do where the schema names row weights.
            shard: `(index, count)`: which part of every step this worker reads, of how many workers. All of them take
                the same number of steps, and one step of all together reads the rows that a single worker would read
                with `count · batch_size` rows a batch. Rows that are left for the last step are spread evenly; with
                `"keep"` they must divide by `count`.
            prefetch: How many batches to read ahead, each by a thread of its own; 0: none, and Keras reads a batch when it
                needs one (on TensorFlow in a thread, too). Files in the page cache are so fast to read that this gains
                nothing on a CPU; it does where the files come from a disk, or where an accelerator waits.
            start_epoch: Number of the first epoch.
            start_batch: Batches of the first epoch to skip, to resume in its middle.

        Raises:
            ValueError: the split holds no batch, or an argument is out of range.
        """
        from keras_dlrm.data.packed.dataset import SplitDataset

        cut = BatchCut(len(self), batch_size, last, shard)
        return SplitDataset(self, cut, shuffle, seed, prefetch, start_epoch, start_batch)

    def to_tf_dataset(
        self,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        last: str = "keep",
        shard: tuple[int, int] = (0, 1),
        prefetch: int = 0,
        start_epoch: int = 0,
    ) -> Any:
        """The batches of `dataset` as a `tf.data.Dataset`, for `fit` on every backend and for what else TensorFlow does with one.

        Each time that its last batch is read counts as an epoch, so `fit(…, epochs=3)` sees three shuffles. To resume in
        the middle of an epoch, use `dataset`.

        Args:
            batch_size, shuffle, seed, last, shard, prefetch, start_epoch: As of `dataset`. With `"drop"` and `"pad"`
                the number of rows is part of the static shape.

        Raises:
            ValueError: the split holds no batch, or an argument is out of range.
        """
        from keras_dlrm.data.packed.tf_data import resumed_epochs

        batches = functools.partial(self.dataset, batch_size, shuffle, seed, last, shard, prefetch)
        return resumed_epochs(batches, self.schema, start_epoch, last == "pad", last != "keep")

    def to_tfrecord(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the rows as serialized `tf.train.Example`, for other programs: complete or absent.

        A feature for each column, by name: the label and dense columns as a float, sparse columns as the list of their
        ids without padding, absent where there are none. `kd.data.tables.preprocess` reads it back.

        Args:
            path: File to write; with the ending `.gz` it is packed.
            overwrite: Whether a file there may be replaced.

        Raises:
            FileExistsError: `path` exists.
            ValueError: the schema is weighted.

        Example, reading it with TensorFlow alone:

        ```python
        features = {"click": tf.io.FixedLenFeature([], tf.float32), "tags": tf.io.RaggedFeature(tf.int64)}
        rows = tf.data.TFRecordDataset("train.tfrecord").batch(2048).map(lambda r: tf.io.parse_example(r, features))
        ```
        """
        from keras_dlrm.data.packed.tf_data import ROWS, write_examples

        if self.schema.weighted:
            raise ValueError("to_tfrecord: the schema is weighted, and features have no weights; write the split without.")
        write_examples(self.schema, self.batches(ROWS), Path(path), overwrite)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self):,} rows)"


class PackedSplit(Split):
    """A split of a processed directory; `ValueError` where a file is missing, damaged or does not fit the schema."""

    def __init__(self, directory: Path, name: str, schema: Schema, rows: int) -> None:
        super().__init__(name, schema)
        self._rows = rows
        self._names = schema.input_names
        self._arrays = {
            key: _open(layout.array_path(directory, name, key), dtype, (rows,) if width is None else (rows, width))
            for key, (dtype, width) in layout.array_specs(schema).items()
        }

    def __len__(self) -> int:
        return self._rows

    def take(self, rows: Any) -> tuple[Batch, np.ndarray]:
        return {key: self._arrays[key].take(rows) for key in self._names}, self._arrays[layout.LABEL].take(rows)

    def arrays(self) -> tuple[Batch, np.ndarray]:
        return {key: self._arrays[key].array for key in self._names}, self.labels

    @property
    def labels(self) -> np.ndarray:
        return self._arrays[layout.LABEL].array

    def sample_weights(self, rows: Any = slice(None)) -> np.ndarray | None:
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
