"""View of a click log of several labels as one of a single label: the rows that have it."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_dlrm.data.packed.split import Batch, Split


class LabelSplit(Split):
    """Rows of a split in which a label is not missing, with that label alone.

    Args:
        split: A split of a log with several labels.
        label: Name of one of them; `ValueError` names those that there are.

    Attributes:
        rows: Numbers of these rows in the split, int64 (N,).
    """

    def __init__(self, split: Split, label: str) -> None:
        names = split.schema.labels
        if label not in names:
            raise ValueError(f"of_label: {label!r} is not a label of the log; it has {list(names)}.")
        super().__init__(split.name, split.schema.with_label(label))
        self._split, self._place = split, names.index(label)
        self.rows = np.flatnonzero(~np.isnan(self._of(split.labels)))

    def _of(self, labels: np.ndarray) -> np.ndarray:
        values: np.ndarray = labels.reshape(len(labels), -1)[:, self._place]
        return values

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Any) -> tuple[Batch, np.ndarray]:
        batch, labels = self._split.take(self.rows[rows])
        return batch, self._of(labels)

    @property
    def labels(self) -> np.ndarray:
        return self._of(self._split.labels)[self.rows]

    def sample_weights(self, rows: Any = slice(None)) -> np.ndarray | None:
        return self._split.sample_weights(self.rows[rows])


class LabelLog:
    """A log whose splits are `LabelSplit`s: what `ClickLog.of_label` returns."""

    best = None  # known for planted logs only, which have one label

    def __init__(self, log: Any, label: str) -> None:
        self._log, self._label = log, label
        self.directory, self.splits = log.directory, log.splits
        self.schema = log.schema.with_label(label)

    @property
    def preprocessor(self) -> Any:
        """The preprocessor of the whole log."""
        return self._log.preprocessor

    def split(self, name: str) -> LabelSplit:
        """One split; `KeyError` where there is none of that name."""
        return LabelSplit(self._log.split(name), self._label)
