"""Criteo's click logs (Kaggle, Terabyte) → a processed directory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_dlrm.data import criteo_reader as reader
from keras_dlrm.data import dense
from keras_dlrm.data.first_appearance import FirstAppearance
from keras_dlrm.data.packed import ClickLog
from keras_dlrm.data.packed import open as open_log
from keras_dlrm.data.preprocessor import Preprocessor
from keras_dlrm.data.vocabulary import HEX, Keys, Vocabulary
from keras_dlrm.data.writer import PackedWriter, check_output
from keras_dlrm.schema import Categorical, Dense, Schema

if TYPE_CHECKING:
    import polars as pl

DIALECTS = ("classic",)
SHUFFLES = ("none", "day", "total")
Progress = Callable[[int, int | None, str], None]
Path_ = str | os.PathLike[str]
_CHUNK = 65_536


def preprocess(
    inputs: Path_ | Sequence[Path_],
    output: Path_,
    dialect: str = "classic",
    max_ind_range: int | None = None,
    subsample: float = 0.0,
    days: int = 7,
    shuffle: str = "none",
    seed: int = 123,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ClickLog:
    """Preprocess raw Criteo logs as a published DLRM did, so that results compare.

    The `"classic"` dialect is the reference PyTorch DLRM's, to the bit:

    - A missing count or category is 0. Categories are hexadecimal numbers, taken modulo `max_ind_range`.
    - Ids are given by first appearance, per column, over *all* rows, those of validation and test included; there is
      no row for unseen values (at inference these go to row 0, the schema's default).
    - Counts become `log(max(x, 0) + 1)` in float32.
    - Several inputs are a day each. A single one is cut into `days` parts of consecutive lines, the first ones a line
      longer where it does not divide. The first half of the last day is the test split (the longer half), the second
      half the validation split, all other days are the training split.
    - Sub-sampling drops a row with label 0 where a uniform number is below `subsample`.

    One thing differs: a label other than 0 and 1, or a missing one, is an error (the reference takes missing as 0).

    The logs are read once, in blocks; staging needs about 160 bytes of disk per row beside the output.

    Args:
        inputs: Raw log or logs: tab-separated lines of a label, 13 counts, 26 hexadecimal categories; plain or `.gz`.
        output: Directory to write: complete or absent.
        dialect: `"classic"`.
        max_ind_range: Most rows of a table, or `None` for no limit.
        subsample: Probability with which a row without a click is dropped.
        days: Parts of a single input; ignored for several inputs.
        shuffle: `"total"` permutes the training rows once, `"day"` each training day by itself, `"none"` keeps the
            order of the log. (Datasets can shuffle every epoch anew.)
        seed: Seed of sub-sampling and shuffling, drawn in this order from one NumPy `RandomState`.
        overwrite: Whether a processed directory at `output` may be replaced.
        progress: Called as `progress(rows_done, rows_total, stage)`, with the stages `"read"` and `"write"`; the total
            is `None` while it is unknown.

    Returns:
        The written `ClickLog`, with dense columns I1 … I13 and categorical columns C1 … C26.

    Raises:
        FileNotFoundError: an input does not exist.
        FileExistsError: `output` exists.
        ValueError: an argument out of range, or a line that cannot be used; the message names file, line, column and
            value.

    Source: Naumov et al. 2019, arXiv:1906.00091, and its public code, facebookresearch/dlrm `data_utils.py`.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"criteo: dialect={dialect!r} is unknown; this release has {DIALECTS}.")
    if shuffle not in SHUFFLES:
        raise ValueError(f"criteo: shuffle={shuffle!r} is unknown; use one of {SHUFFLES}.")
    output = Path(output)
    check_output(output, overwrite)
    paths = _paths(inputs)
    output.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(seed)
    staging = tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.", suffix=".partial")
    with staging as directory, _Stage(Path(directory)) as log:
        encoder = _Encoder(max_ind_range)
        for day, label, counts, ids, done, total in _encoded(paths, encoder, days, subsample, random):
            log.append(day, label, counts, ids)
            if progress is not None:
                progress(done, total, "read")
        label, counts, ids = log.finish()
        schema, preprocessor = encoder.describe()
        orders = _orders(log.rows_per_day, shuffle, random)
        with PackedWriter(output, schema, preprocessor, overwrite) as writer:
            written = 0
            for split, order in orders.items():
                writer.begin(split)
                for start in range(0, len(order), _CHUNK):
                    rows = order[start : start + _CHUNK]
                    x = counts[rows].astype(np.float64)
                    logs = [dense.transform(c, {}, x[:, j]) for j, c in enumerate(schema.dense)]
                    writer.append(split, {"dense": np.stack(logs, axis=1), "sparse": ids[rows]}, label[rows])
                    written += len(rows)
                    if progress is not None:
                        progress(written, len(label), "write")
        del label, counts, ids
    return open_log(output)


def encode(inputs: Path_ | Sequence[Path_], max_ind_range: int | None = None) -> dict[str, np.ndarray]:
    """The first stage of the classic dialect by itself, in memory: numbers and ids; no logarithm, split or shuffle.

    Args:
        inputs: Raw log or logs.
        max_ind_range: Most rows of a table, or `None` for no limit.

    Returns:
        `"y"` int32 (N,), `"X_int"` int32 (N, 13) without negative values, `"X_cat"` int32 (N, 26), and `"counts"`
        int32 (26,), the rows of each table.
    """
    encoder = _Encoder(max_ind_range)
    parts = [p[1:4] for p in _encoded(_paths(inputs), encoder, 1, 0.0, np.random.RandomState(0), whole=True)]
    y, x, ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return {"y": y, "X_int": x, "X_cat": ids, "counts": np.array([len(c) for c in encoder.columns], np.int32)}


class _Encoder:
    """Ids by first appearance for the 26 columns."""

    def __init__(self, max_ind_range: int | None) -> None:
        if max_ind_range is not None and max_ind_range < 1:
            raise ValueError(f"criteo: max_ind_range={max_ind_range} must be at least 1, or None for no limit.")
        self.max_ind_range = max_ind_range
        self.columns = [FirstAppearance() for _ in reader.CATEGORICAL]

    def encode(self, hashes: Sequence[pl.Series]) -> np.ndarray:
        return np.stack([c.encode(h) for c, h in zip(self.columns, hashes, strict=True)], axis=1)

    def describe(self) -> tuple[Schema, Preprocessor]:
        named = dict(zip(reader.CATEGORICAL, self.columns, strict=True))
        schema = Schema(
            dense=[Dense(name, transform="log1p") for name in reader.DENSE],
            categorical=[Categorical(name, len(column)) for name, column in named.items()],
            label=reader.LABEL,
        )
        keys = Keys(HEX, self.max_ind_range)
        vocabularies = {
            name: Vocabulary(column.values, np.arange(len(column), dtype=np.int32), len(column), 0, keys)
            for name, column in named.items()
        }
        return schema, Preprocessor(schema, vocabularies=vocabularies)


class _Stage:
    """Encoded rows on disk, in the order of the log."""

    def __init__(self, directory: Path) -> None:
        self._shapes = {"label": (np.int32, 1), "counts": (np.int32, 13), "ids": (np.int32, 26)}
        self._paths = {name: directory / f"{name}.raw" for name in self._shapes}
        self._files = {name: open(path, "wb") for name, path in self._paths.items()}
        self.rows_per_day: list[int] = []

    def append(self, day: int, label: np.ndarray, counts: np.ndarray, ids: np.ndarray) -> None:
        while len(self.rows_per_day) <= day:
            self.rows_per_day.append(0)
        self.rows_per_day[day] += len(label)
        for name, array in (("label", label), ("counts", counts), ("ids", ids)):
            self._files[name].write(np.ascontiguousarray(array).tobytes())

    def __enter__(self) -> _Stage:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        for file in self._files.values():
            file.flush()
        total = sum(self.rows_per_day)
        if not total:
            raise ValueError("criteo: no rows are left; the inputs are empty or sub-sampling dropped every row.")
        maps = {n: np.memmap(self._paths[n], dtype, "r", shape=(total, w)) for n, (dtype, w) in self._shapes.items()}
        return maps["label"][:, 0], maps["counts"], maps["ids"]


Encoded = tuple[int, np.ndarray, np.ndarray, np.ndarray, int, int | None]


def _encoded(
    paths: list[Path],
    encoder: _Encoder,
    days: int,
    subsample: float,
    random: np.random.RandomState,
    whole: bool = False,
) -> Iterator[Encoded]:
    """Yields `(day, label, counts, ids, lines_done, lines_total)`, the first time without rows, for the last day."""
    if not 0.0 <= subsample < 1.0:
        raise ValueError(f"criteo: subsample={subsample} must be a probability below 1.")
    cuts: np.ndarray | None = None
    if len(paths) == 1 and not whole:
        if isinstance(days, bool) or not isinstance(days, int) or days < 2:
            raise ValueError(f"criteo: days={days!r} must be an integer of at least 2: the last day is valid and test.")
        size, longer = divmod(reader.count_lines(paths[0]), days)
        cuts = np.cumsum([size + (d < longer) for d in range(days)])
    total = None if cuts is None else int(cuts[-1])
    last_day = len(paths) - 1 if cuts is None else days - 1
    yield last_day, np.empty(0, np.int32), np.empty((0, 13), np.int32), np.empty((0, 26), np.int32), 0, total
    done = 0
    for file_number, path in enumerate(paths):
        for block in reader.read(path, encoder.max_ind_range):
            keep = np.ones(len(block), bool)
            if subsample:
                keep = (block.label != 0) | ~(random.uniform(size=len(block)) < subsample)
            day = np.full(len(block), file_number)
            if cuts is not None:
                day = np.searchsorted(cuts, np.arange(done, done + len(block)), side="right")
            done += len(block)
            kept = np.flatnonzero(keep)
            ids = encoder.encode([h.gather(kept) if subsample else h for h in block.hashes])
            label, counts, day = block.label[kept], np.maximum(block.counts[kept], 0), day[kept]
            for d in np.unique(day):
                yield int(d), label[day == d], counts[day == d], ids[day == d], done, total


def _orders(rows_per_day: list[int], shuffle: str, random: np.random.RandomState) -> dict[str, np.ndarray]:
    ends = np.cumsum(rows_per_day)
    day_rows = np.split(np.arange(ends[-1]), ends[:-1])
    if shuffle == "day":
        day_rows[:-1] = [random.permutation(rows) for rows in day_rows[:-1]]
    train = np.concatenate(day_rows[:-1])
    if shuffle == "total":
        train = random.permutation(train)
    test, valid = np.array_split(day_rows[-1], 2)
    return {"train": train, "valid": valid, "test": test}


def _paths(inputs: Path_ | Sequence[Path_]) -> list[Path]:
    paths = [Path(inputs)] if isinstance(inputs, (str, os.PathLike)) else [Path(p) for p in inputs]
    if not paths:
        raise ValueError("criteo: no inputs; give the raw log, or one file per day.")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give the raw log (train.txt, or day_0 … day_23).")
    return paths
