"""Batches for `fit`: a split as a `keras.utils.PyDataset` that resumes in the middle of an epoch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import keras
import numpy as np

from keras_dlrm.data.packed.filling import padded
from keras_dlrm.data.packed.order import BatchCut, ShuffledOrder
from keras_dlrm.files.read_ahead import ReadAhead
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer


class NamedRows(Protocol):
    """Rows with a name and a schema, such as a `Split`."""

    name: str
    schema: Schema

    def __len__(self) -> int: ...

    def take(self, rows: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """See `Rows.take`."""

    def sample_weights(self, rows: Any) -> np.ndarray | None:
        """See `Rows.sample_weights`."""


class SplitDataset(keras.utils.PyDataset):
    """Batches `(batch, label)` of a split: what `Split.dataset` returns.

    With `last="pad"`, and where the schema names row weights, they are `(batch, label, sample_weight)`.

    With `shuffle=True` each epoch is one permutation of all rows, and epoch e's depends on `(seed, e)` only, so a run
    that resumes with `start_epoch=e, start_batch=b` sees exactly the rows that the uninterrupted run would have seen:
    first the rest of epoch e, then whole epochs.

    ```python
    dataset = part.dataset(2048, shuffle=True, seed=0, start_epoch=3, start_batch=1200)
    model.fit(dataset, initial_epoch=3, epochs=10)
    ```

    Within an epoch batches come in this order however they are asked for: `fit` has a `shuffle=True` of its own, which
    would otherwise mix them. For the same reason Keras reads with one thread (`workers=1`), and `prefetch` threads of
    our own read ahead of it. What they read and nobody trained on is read again by a run that resumes.

    `len(dataset)` is the number of batches of the current epoch, so `batches - start_batch` in the first one; the
    progress bar of `fit` counts to that number, out of those of a whole epoch.

    In a loop of your own, `for batch, label in dataset` is one epoch, and the next such loop is the next one. In Keras
    an epoch counts as done when its last batch was read and Keras says that it ended; the counter is `epoch`. A run
    that was stopped in the middle of an epoch (`EarlyStopping` by batch, an exception) continues with a new dataset.

    Args:
        split: The split.
        cut: Its batches.
        shuffle, seed, prefetch, start_epoch, start_batch: See `Split.dataset`.

    Raises:
        ValueError: the split holds no batch, or an argument is out of range.
    """

    def __init__(
        self, split: NamedRows, cut: BatchCut, shuffle: bool, seed: int, prefetch: int, start_epoch: int, start_batch: int
    ) -> None:
        super().__init__()
        self._cut = cut
        self.batch_size = int(cut.batch_size)
        self.shuffle = shuffle
        self.seed = seed
        self.batches_per_epoch = len(cut)
        if self.batches_per_epoch == 0:
            workers = f" and {cut.shard[1]} workers" if cut.shard[1] > 1 else ""
            hint = f"; batch_size={cut.batch_size} with last='drop'{workers} leaves no batch" if len(split) else ""
            raise ValueError(f"Split {split.name!r} has {len(split)} rows{hint}: there is nothing to iterate over.")
        counts = {"seed": seed, "prefetch": prefetch, "start_epoch": start_epoch, "start_batch": start_batch}
        for name, value in counts.items():
            integer("dataset", name, value, 0)
        if start_batch >= self.batches_per_epoch:
            raise ValueError(
                f"dataset: start_batch={start_batch} but an epoch has {self.batches_per_epoch} batches; for the next "
                f"epoch give start_epoch={start_epoch + 1}, start_batch=0."
            )
        self.epoch = int(start_epoch)
        self._split = split
        self._skip = int(start_batch)  # batches to leave out of the current epoch
        self._within_epoch = False
        self._position = 0  # of the next batch in the current epoch
        self._read_last = False
        self._reset_seen = False
        self._lock = threading.Lock()
        self._prefetch = int(prefetch)
        self._ahead = ReadAhead(self._read, self._prefetch)

    @property
    def schema(self) -> Schema:
        """The log's schema: a model of another vocabulary refuses the dataset."""
        return self._split.schema

    def __len__(self) -> int:
        return self.batches_per_epoch - self._skip

    @property
    def num_batches(self) -> int:
        """Batches of the current epoch when it has just begun, and of a whole one at any other time.

        Keras asks when it starts to iterate, and so the next batch that it asks for is the first one. It also asks
        when `fit` starts, maybe after having read a batch to build the model.
        """
        just_begun = self._within_epoch and self._position == 0
        self._position = 0
        if just_begun:
            return len(self)
        return _Steps(self) if self._skip else self.batches_per_epoch

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for index in range(len(self)):
            yield self[index]
        self._advance()

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        length = len(self)
        if self._within_epoch:
            # fit(shuffle=True), the default, asks for the batches in a random order of its own: they come in ours.
            with self._lock:
                index, self._position = self._position, self._position + 1
            self._read_last = index == length - 1
            limit = length
        else:
            # Keras looks at a few batches before the first epoch, to learn their shapes.
            limit = self.batches_per_epoch
        if not 0 <= index < limit:
            raise IndexError(f"batch {index} of {limit}: the epoch has no more.")
        number = self._skip + index % length
        following = range(number + 1, min(number + 1 + self._prefetch, self.batches_per_epoch))
        return self._ahead.get((self.epoch, number), [(self.epoch, other) for other in following])

    def _read(self, key: tuple[int, int]) -> tuple[Any, ...]:
        """Batch `number` of an epoch, given `(epoch, number)`."""
        epoch, number = key
        start, stop = self._cut.places(number)
        order = ShuffledOrder(len(self._split), self.seed, epoch) if self.shuffle else None
        rows = slice(start, stop) if order is None else order[start:stop]
        batch, label = self._split.take(rows)
        row_weights = self._split.sample_weights(rows)
        if self._cut.last != "pad":
            return (batch, label) if row_weights is None else (batch, label, row_weights)
        weight = np.zeros(self.batch_size, np.float32)
        weight[: stop - start] = 1.0 if row_weights is None else row_weights
        return padded(batch, self.batch_size), padded({"label": label}, self.batch_size)["label"], weight

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def on_epoch_begin(self) -> None:
        """Called by Keras before an epoch, and before it looks at one batch to build a model."""
        if self._within_epoch:
            return  # It continues, see on_epoch_end.
        self._within_epoch = True
        self._read_last = False
        if self._skip:
            self._position = 0

    def on_epoch_end(self) -> None:
        """Called by Keras after an epoch, and once more when `fit` or `evaluate` starts."""
        # Keras resets its iterator, and so calls this, before the first epoch: perhaps after having read a batch or two
        # to build the model, which must not count as an epoch that is as short.
        first, self._reset_seen = not self._reset_seen, True
        if self._within_epoch and self._read_last and not (first and len(self) <= 2):
            self._advance()
        # After fewer steps than the epoch has (`steps_per_epoch`) Keras continues with the same iterator, and on
        # TensorFlow a thread reads ahead at any moment: until the last batch the epoch is not left.
        self._within_epoch = self._within_epoch and not first and not self._read_last and self._position > 0
        if not self._within_epoch:
            self._read_last = False

    def _advance(self) -> None:
        self.epoch += 1
        self._skip = 0


class _Steps(int):
    """A whole epoch's number of batches, which `steps_seen >= steps` compares as the current epoch's.

    Keras 3 (`EpochIterator`) takes the number of steps of all epochs once, when `fit` starts, and ends each epoch where
    that comparison holds. A first epoch that merely ran dry would not do: Keras warns, and on TensorFlow the step
    without data still counts as one for the optimizer.
    """

    dataset: SplitDataset

    def __new__(cls, dataset: SplitDataset) -> _Steps:
        steps = super().__new__(cls, dataset.batches_per_epoch)
        steps.dataset = dataset
        return steps

    def __le__(self, steps_seen: int) -> bool:
        return len(self.dataset) <= steps_seen
