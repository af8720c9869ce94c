"""`MultiHot`: bags in place of one-hot ids, as in MLPerf's DLRM-DCNv2."""

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from keras_dlrm.data.packed.packed import ClickLog
from keras_dlrm.data.packed.packed import open as open_log
from keras_dlrm.data.packed.split import Batch
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.data.synthetic.log import BLOCK, Progress
from keras_dlrm.data.synthetic.mixing import mixed
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import choice, integer, number


class _Batches(Protocol):
    def batches(self, batch_size: int) -> Iterator[tuple[Batch, np.ndarray]]: ...


class MultiHot:
    """Turns one-hot columns into multi-hot ones: an id always brings the same others with it.

    The bag of an id has a fixed size, and the id itself comes first. The others are drawn once and for all from the
    table's rows, by a hash of the seed, the column, the id and the place. So nothing is stored, however large the table:
    MLPerf's script, whose approach this is, holds a table of all bags, 5.8 billion draws at full size, and its draws
    are others.

    Args:
        schema: Fitted schema whose sparse columns are one-hot.
        hotness: Size of the bags: one per sparse column in order, or by column name (others stay one-hot).
            `MLPERF_V2_HOTNESS` has the benchmark's 26.
        distribution: Of the further ids. `"uniform"`, or `"pareto"`: `⌊x⌋ mod vocabulary_size` of a Pareto (Lomax)
            distributed x, so that the first rows of each table come most often.
        shape: Shape of the Pareto distribution; the benchmark's is 0.25.
        seed: Seed of the bags.

    Raises:
        ValueError, KeyError: an argument is out of range, or a column is multi-hot already.

    Example:

    >>> from keras_dlrm.schema.schema import Categorical
    >>> bags = MultiHot(Schema(categorical=[Categorical("C1", 100)]), hotness=[3])
    >>> ids = bags.transform({"sparse": np.array([[7], [2], [7]])})["sparse"]
    >>> ids[:, 0].tolist(), bool((ids[0] == ids[2]).all()), bags.schema.width
    ([7, 2, 7], True, 3)
    """

    def __init__(
        self, schema: Schema, hotness: Sequence[int] | Mapping[str, int], distribution: str = "uniform",
        shape: float = 0.25, seed: int = 0,
    ) -> None:  # fmt: skip
        schema.require_fitted()
        if schema.sample_weight is not None:
            raise ValueError("MultiHot: the schema has row weights, which bags do not carry; leave sample_weight out.")
        names = schema.categorical_names
        if isinstance(hotness, Mapping):
            for name in hotness:
                if name not in names:
                    raise KeyError(f"MultiHot: hotness names column {name!r}; the schema has {list(names)}.")
            sizes = [hotness.get(name, 1) for name in names]
        else:
            sizes = list(hotness)
        if len(sizes) != len(names):
            raise ValueError(f"MultiHot: hotness has {len(sizes)} sizes; the schema has {len(names)} sparse columns.")
        for column in schema.categorical:
            if column.hotness != 1:
                raise ValueError(
                    f"MultiHot: column {column.name!r} has hotness={column.hotness}; bags are made of one-hot columns."
                )
        choice("MultiHot", "distribution", distribution, ("uniform", "pareto"))
        self.hotness = tuple(integer("MultiHot", f"hotness[{i}]", size) for i, size in enumerate(sizes))
        self.distribution = distribution
        self.shape = number("MultiHot", "shape", shape, 1e-3)
        self.seed = integer("MultiHot", "seed", seed, 0)
        self.source = schema
        changes = {name: {"hotness": size} for name, size in zip(names, self.hotness, strict=True)}
        self.schema = schema.replace_categorical(**changes)

    def transform(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """The batch with bags in place of ids; weights are those of the id that brought them.

        Args:
            batch: Packed batch of B rows of the one-hot schema.

        Returns:
            Packed batch of `schema`; a missing id (padding) gives an empty bag.

        Raises:
            KeyError, TypeError, ValueError: the batch does not fit the one-hot schema.
        """
        self.source.validate(batch)
        out = {name: np.asarray(batch[name]) for name in self.source.input_names}
        if self.source.categorical:
            out["sparse"] = np.concatenate([self._bags(out["sparse"], i) for i in range(len(self.hotness))], axis=1)
        if self.source.weighted:
            out["weights"] = np.repeat(out["weights"], self.hotness, axis=1)
        return out

    def _bags(self, sparse: np.ndarray, index: int) -> np.ndarray:
        column, size = self.source.categorical[index], self.hotness[index]
        ids = sparse[:, index : index + 1]
        if size == 1:
            return ids
        rows = int(column.vocabulary_size or 0)
        key = zlib.crc32(column.name.encode()) + (self.seed << 32)
        place = np.arange(1, size, dtype=np.uint64)
        # 53 bits of each: an even number in [0, 1).
        even = (mixed(mixed(ids.astype(np.uint64), key) + place, key) >> np.uint64(11)) * 2.0**-53
        if self.distribution == "uniform":
            others = np.minimum((even * rows).astype(np.int64), rows - 1)
        else:
            # The largest, 2^(53 / shape), have no float; they are as good as evenly spread over the rows.
            with np.errstate(over="ignore"):
                value = np.floor(np.minimum((1.0 - even) ** (-1.0 / self.shape) - 1.0, 2.0**52))
            others = np.where(value < 2.0**52, value % rows, np.floor(even * rows * 2.0**20) % rows).astype(np.int64)
        bags = np.concatenate([ids, others.astype(ids.dtype)], axis=1)
        return np.where(ids == PADDING, PADDING, bags)

    def batches(self, source: _Batches, batch_size: int, **options: Any) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches of a split or a synthetic log, multi-hot.

        Args:
            source: Anything with `batches(batch_size)`.
            batch_size: Rows of a batch.
            **options: Passed on to the source's `batches`.
        """
        return ((self.transform(batch), label) for batch, label in source.batches(batch_size, **options))

    def write(
        self, log: ClickLog, directory: str | os.PathLike[str], overwrite: bool = False, progress: Progress | None = None
    ) -> ClickLog:
        """Write a processed directory with bags in place of ids. Memory does not grow with rows or tables.

        Args:
            log: The one-hot log; its schema is that of this object.
            directory: Directory to write: complete or absent.
            overwrite: Whether a processed directory there may be replaced.
            progress: Called as `progress(rows_done, rows_total, split)`.

        Returns:
            The written `ClickLog`.

        Raises:
            ValueError: the log has another schema.
        """
        if log.schema.to_dict() != self.source.to_dict():
            raise ValueError(f"MultiHot.write: {log.directory} has another schema than the one given to MultiHot.")
        parts = {name: log.split(name) for name in log.splits}
        with PackedWriter(directory, self.schema, overwrite=overwrite) as writer:
            batches = {name: self.batches(part, BLOCK) for name, part in parts.items()}
            writer.extend(batches, sum(map(len, parts.values())), progress)
            settings = ("hotness", "distribution", "shape", "seed")
            writer.note("multi_hot", {name: getattr(self, name) for name in settings})
            # The labels were drawn before, from the first id of each bag; the others carry nothing.
            for note in ("best", "best_by_split"):
                if note in log.manifest:
                    writer.note(note, log.manifest[note])
        return open_log(directory, verify=False)
