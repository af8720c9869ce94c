"""Reader of a processed directory: `open`, `ClickLog`, `Split`, memory-mapped arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.packed.split_rows import Batch, PackedRows, Rows
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer

if TYPE_CHECKING:
    from keras_dlrm.data.packed.dataset import SplitDataset
    from keras_dlrm.data.preprocessor.preprocessor import Preprocessor


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


class ClickLog:
    """A processed directory. See `open`."""

    def __init__(self, directory: Path, verify: bool | None = None) -> None:
        self.manifest = layout.read_manifest(directory)
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

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that the directory holds, in the order train, valid, test."""
        return tuple(s for s in layout.SPLITS if s in self.manifest["splits"])

    @property
    def best(self) -> dict[str, float] | None:
        """Scores of the best possible model on the test split: `"auc"` and `"logloss"` in expectation,
        `"drawn_auc"` and `"drawn_logloss"` on its labels.

        Known for planted logs only (see `PlantedClickLog.write`), `None` for others.
        """
        return self.manifest.get("best")

    def split(self, name: str) -> Split:
        """One split; `KeyError` where the directory has none of that name, `ValueError` where a file of it is damaged."""
        if name not in self.splits:
            raise KeyError(f"{self.directory} has no split {name!r}; it has {list(self.splits)}.")
        return Split(name, self.schema, PackedRows(self.directory, name, self.schema, self.manifest["splits"][name]))

    def __repr__(self) -> str:
        rows = ", ".join(f"{s}: {self.manifest['splits'][s]:,}" for s in self.splits)
        return f"ClickLog({str(self.directory)!r}, {rows})"


class Split:
    """Part of a click log. `len(part)` is its number of rows N.

    Args:
        name: `"train"`, `"valid"` or `"test"`.
        schema: The log's schema.
        rows: Where the rows are.
    """

    def __init__(self, name: str, schema: Schema, rows: Rows) -> None:
        self.name = name
        self.schema = schema
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def arrays(self) -> tuple[Batch, np.ndarray]:
        """The whole split. Of a processed directory these are read-only memory maps; of other files, copies in memory.

        Returns:
            `({"dense": float32 (N, n_dense), "sparse": int32 (N, W)[, "weights": float32 (N, W)]}, float32 (N,))`.
        """
        return self._rows.arrays()

    @property
    def labels(self) -> np.ndarray:
        """The labels of the whole split alone, float32 (N,)."""
        return self._rows.labels()

    def sample_weights(self, rows: Any = slice(None)) -> np.ndarray | None:
        """Copies of some row weights, float32 (B,), by default of all, or `None` where the schema names none.

        Args:
            rows: A slice or an array of row numbers.
        """
        return self._rows.sample_weights(rows)

    def take(self, rows: Any) -> tuple[Batch, np.ndarray]:
        """Copies of some rows: `rows` is a slice or an array of row numbers; shapes as in `arrays`, with B rows.

        Raises:
            ValueError: a file was cut short in the meantime, or (of files that no `PackedWriter` checked) a value is
                not what its column may hold.
        """
        return self._rows.take(rows)

    def batches(self, batch_size: int) -> Iterator[tuple[Any, ...]]:
        """Batches in file order, the last one with what is left.

        Args:
            batch_size: Rows B of a batch.

        Returns:
            Iterator of `(batch, label)`: NumPy arrays as in `arrays`, with B rows; of `(batch, label, sample_weight)` where
            the schema names row weights.
        """
        size = integer("batches", "batch_size", batch_size)
        if self.schema.sample_weight is None:
            return self._rows.batches(size)
        return self._weighted_batches(size)

    def _weighted_batches(self, size: int) -> Iterator[tuple[Any, ...]]:
        first = 0
        for batch, label in self._rows.batches(size):
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

        return SplitDataset(
            self,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            last=last,
            shard=shard,
            prefetch=prefetch,
            start_epoch=start_epoch,
            start_batch=start_batch,
        )

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

        def batches(epoch: int) -> SplitDataset:
            return self.dataset(
                batch_size, shuffle=shuffle, seed=seed, last=last, shard=shard, prefetch=prefetch, start_epoch=epoch
            )

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
        from keras_dlrm.data.packed.tf_examples import ROWS, write_examples

        if self.schema.weighted:
            raise ValueError("to_tfrecord: the schema is weighted, and features have no weights; write the split without.")
        write_examples(self.schema, self.batches(ROWS), Path(path), overwrite)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self):,} rows)"
