"""Staged rows of a Criteo log, their splits and shuffled order, and the values of its vocabularies."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from keras_dlrm.data.jobs.staging import Stage, Staging, as_bytes, chunks
from keras_dlrm.data.packed import format as layout
from keras_dlrm.schema.criteo import CATEGORICAL, DENSE

# Parts that may wait to be written, some 12 MB each: parsing continues while the disk takes its time.
AHEAD = 12
SPECS = {
    "label": (np.dtype(np.float32), None),
    "dense": (np.dtype(np.float32), len(DENSE)),
    "sparse": (np.dtype(np.int32), len(CATEGORICAL)),
}
HEADER = len(layout.array_header(*SPECS["label"], 0))

# Arrays of `SPECS`: label (n,), dense (n, 13), sparse (n, 26).
Rows = dict[str, np.ndarray]


class CriteoStage(Stage):
    """Staged rows. Each file has room for the header of a `.npy` file: rows that are final become a split where they are."""

    def __init__(self, staging: Staging, dense: type[np.generic]) -> None:
        super().__init__(staging, {**SPECS, "dense": (np.dtype(dense), len(DENSE))}, HEADER, AHEAD)
        if staging.state is None:
            for name, spec in SPECS.items():
                staging.append(name, layout.array_header(*spec, 0))

    def append(self, rows: Rows, new: Sequence[np.ndarray], kept: np.ndarray | None, state: Any) -> None:
        """Add rows, the uint64 values that they were the first to have, by column, and what subsampling kept of their lines."""
        sizes = np.array([len(values) for values in new], np.int64)
        parts = [*rows.items(), *(("keys", array) for array in (sizes, *new))]
        self.write(parts if kept is None else [*parts, ("kept", kept)], state)

    def known(self) -> list[np.ndarray]:
        """The committed values of the 26 vocabularies."""
        pieces: list[list[np.ndarray]] = [[np.empty(0, np.uint64)] for _ in CATEGORICAL]
        path = self.staging.path("keys")
        if path.exists():
            with open(path, "rb") as file:
                while len(sizes := np.fromfile(file, np.int64, len(CATEGORICAL))):
                    for column, size in zip(pieces, sizes.tolist(), strict=True):
                        column.append(np.fromfile(file, np.uint64, size))
        return [np.concatenate(column) for column in pieces]

    def kept(self, first: int, last: int) -> int:
        """Number of the lines `first … last - 1` that subsampling kept."""
        path, step = self.staging.path("kept"), 2**24
        parts = (np.fromfile(path, np.uint8, min(step, last - at), offset=at) for at in range(first, last, step))
        return sum(int(part.sum()) for part in parts)

    def rows(self, first: int, last: int) -> Rows:
        """Committed rows `first … last - 1`."""
        return {name: self.read(name, first, last) for name in SPECS}


# Bytes of rows that are put in order at once, and most files that are open meanwhile.
BUCKET_BYTES = 2**27
MOST_BUCKETS = 500
SHUFFLES = ("none", "day", "total")
_RECORD = np.dtype([("place", np.int64), ("label", np.float32), ("dense", np.float32, 13), ("sparse", np.int32, 26)])


def ranges(rows_per_day: Sequence[int], test_first: bool) -> dict[str, tuple[int, int]]:
    """First and last row of each split: all days but the last, and the halves of the last, the longer one first."""
    total = sum(rows_per_day)
    start = total - rows_per_day[-1]
    middle = start + (rows_per_day[-1] + 1) // 2
    halves = [(start, middle), (middle, total)]
    valid, test = halves[::-1] if test_first else halves
    return {"train": (0, start), "valid": valid, "test": test}


def shuffled_order(rows_per_day: Sequence[int], shuffle: str, random: np.random.RandomState) -> np.ndarray | None:
    """Numbers of the training rows in their new order, or `None` for that of the log; 4 bytes each below 2^31 rows.

    The draws are those of NumPy's `permutation` of these numbers.
    """
    if shuffle == "none":
        return None
    days = rows_per_day[:-1]
    rows = np.arange(sum(days), dtype=np.int32 if sum(days) < 2**31 else np.int64)
    for part in [rows] if shuffle == "total" else np.split(rows, np.cumsum(days)[:-1]):
        random.shuffle(part)
    return rows


def shuffled(
    stage: CriteoStage, new_order: np.ndarray, late: Callable[[Rows, int], Rows], on_rows: Callable[[int], object]
) -> Iterator[Rows]:
    """The first rows in a new order, in parts: rows are dealt to files by where they go, each of which then fits in memory.

    `late` makes rows final, and `on_rows` is called with the number of rows that were dealt.
    """
    n = len(new_order)
    places = np.empty_like(new_order)
    places[new_order] = np.arange(n, dtype=new_order.dtype)
    size = max(BUCKET_BYTES // _RECORD.itemsize, math.ceil(n / MOST_BUCKETS))
    paths = [stage.staging.path(f"bucket{b}") for b in range(math.ceil(n / size))]
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, "wb")) for path in paths]
        for first, last in chunks(0, n):
            records = np.empty(last - first, _RECORD)
            records["place"] = places[first:last]
            for name, values in late(stage.rows(first, last), first).items():
                records[name] = values
            bucket = records["place"] // size
            by_bucket = np.argsort(bucket, kind="stable")
            bounds = np.searchsorted(bucket[by_bucket], np.arange(len(paths) + 1))
            records = records[by_bucket]
            for file, a, b in zip(files, bounds[:-1], bounds[1:], strict=True):
                file.write(as_bytes(records[a:b]))
            on_rows(last - first)
    for b, path in enumerate(paths):
        records = np.fromfile(path, _RECORD)
        path.unlink()
        ordered = np.empty_like(records)
        ordered[records["place"] - b * size] = records
        del records
        yield {name: ordered[name] for name in SPECS}
