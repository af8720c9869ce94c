"""`Part`: each process's part of every batch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_dlrm.backend.private_keras import class_weight_to_sample_weights

# The sample weight of a row that only fills up a process's part of a batch.
FILLER = float("-inf")


def part_of(batch: Any, rank: int, world_size: int, devices: int = 1) -> Any:
    """Rows of a process: N processes get ⌈B/N⌉ each, the last ones filled up with rows that count nowhere.

    Args:
        batch: Arrays of B rows: x, (x, y) or (x, y, sample_weight).
        rank: Which process.
        world_size: N.
        devices: Of each process, on JAX: they get equally many rows, too.

    Returns:
        The same structure; with sample weights where rows had to be filled up.

    Example:

    >>> x, y, weight = part_of(({"sparse": np.array([[1], [2], [3]])}, np.array([0, 1, 1])), 1, 2)
    >>> x["sparse"].tolist(), weight.tolist()
    ([[3], [-1]], [1.0, -inf])
    """
    x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
    rows = len(keras.tree.flatten(x)[0])
    each = -(-rows // (world_size * devices)) * devices
    if rows % (world_size * devices) and weight is None:
        weight = np.ones(rows, np.float32)

    def part(array: Any, filler: Any) -> Any:
        array = np.asarray(array)[rank * each : (rank + 1) * each]
        missing = each - len(array)
        return array if not missing else np.concatenate([array, np.full((missing, *array.shape[1:]), filler, array.dtype)])

    own_x = {n: part(a, -1 if n == "sparse" else 0) for n, a in x.items()} if isinstance(x, dict) else part(x, -1)
    if y is None:
        return own_x
    y = part(y, 0)
    return (own_x, y) if weight is None else (own_x, y, part(np.asarray(weight, np.float32), FILLER))


class Part(keras.utils.PyDataset):
    """One process's part of each batch of a dataset.

    Args:
        dataset: A `PyDataset`, such as a split's `dataset(…)`, that is the same in all processes.
        rank: Which process; this one by default.
        world_size: How many there are.
        class_weight: Weights of rows by label, as `fit` takes them; a `fit` on parts hands them on.
    """

    def __init__(self, dataset: Any, rank: int | None = None, world_size: int | None = None, class_weight: Any = None) -> None:
        super().__init__()
        from keras_dlrm.sharding import collectives as backend

        self.dataset = dataset
        self.class_weight = class_weight
        self.rank = backend.process_rank() if rank is None else rank
        self.world_size = backend.process_count() if world_size is None else world_size
        self.devices = max(1, backend.world_size() // self.world_size)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        batch = self.dataset[index]
        if self.class_weight is not None:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
            if sample_weight is not None:
                raise ValueError("Part: class_weight is for batches without sample weights; multiply them into those.")
            batch = (x, y, np.asarray(class_weight_to_sample_weights(y, self.class_weight), np.float32))
        return part_of(batch, self.rank, self.world_size, self.devices)

    def weighted(self, class_weight: Any) -> Part:
        """The same parts, rows weighted by their labels: label → weight."""
        part = Part(self.dataset, self.rank, self.world_size, class_weight)
        part.devices = self.devices
        return part

    def on_epoch_begin(self) -> None:
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.dataset.on_epoch_end()
