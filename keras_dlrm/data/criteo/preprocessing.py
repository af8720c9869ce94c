"""`kd.data.criteo.preprocess`: Criteo's click logs (Kaggle, Terabyte) to a processed directory."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.criteo import reader
from keras_dlrm.data.criteo.dialect import Dialect, Torchrec
from keras_dlrm.data.criteo.encoder import Encoder
from keras_dlrm.data.criteo.job import CriteoJob
from keras_dlrm.data.criteo.stage import SHUFFLES
from keras_dlrm.data.packed.packed import ClickLog
from keras_dlrm.data.packed.writer import real_output
from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.files.paths import natural, regular
from keras_dlrm.schema.criteo import check_max_ind_range
from keras_dlrm.support.arguments import choice, integer, number, worker_count

DIALECTS = ("classic", "torchrec")
Path_ = str | os.PathLike[str]


def preprocess(
    inputs: Path_ | Sequence[Path_],
    output: Path_,
    dialect: str = "classic",
    max_ind_range: int | None = None,
    subsample: float = 0.0,
    days: int = 7,
    shuffle: str = "none",
    seed: int | None = None,
    table_sizes: int | Sequence[int] | None = None,
    min_count: int = 1,
    on_error: str = "raise",
    max_skipped: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    reuse: bool = False,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> ClickLog:
    """Preprocess raw Criteo logs as a published DLRM did, so that results compare.

    Several inputs are a day each, in the order of the days. A single one is cut into `days` parts of consecutive lines,
    the first ones a line longer where it does not divide. The last day is halved into validation and test split, all
    other days are the training split.

    The `"classic"` dialect is the reference PyTorch DLRM's, to the bit:

    - A missing count or category is 0. Categories are hexadecimal numbers, taken modulo `max_ind_range`.
    - Ids are given by first appearance, per column, over *all* rows, those of validation and test included; there is
      no row for unseen values (at inference these go to row 0, the schema's default).
    - Counts become `log(max(x, 0) + 1)` in float32.
    - The first half of the last day, the longer one, is the test split.
    - Subsampling drops a row with label 0 where a uniform number is below `subsample`.

    The `"torchrec"` dialect is that of TorchRec's scripts, to the bit:

    - A missing count or category is 0. Counts become `log(x - m + 2)` in float32, where m is the smallest count of
      the same file, over all 13 columns.
    - Ids are given by first appearance, per column, over all rows of all files, and begin at 2; a value that is seen
      fewer than `min_count` times has the id 1. Then they are taken modulo `table_sizes`.
    - The first half of the last day, the longer one, is the validation split.
    - At inference unseen values have the id 1, and m is the smallest count of the training files.

    What these codes do wrong is not repeated: see docs/data.md. In both dialects a label must be there, and 0 or 1.

    The log is read once, in blocks; staging alongside the output needs about 160 bytes of disk per row that become the
    output where it needs no further work. Memory holds up to 31 bytes for each distinct value, and 8 for each
    training row where rows are shuffled, besides some hundred megabytes. A call that was stopped, killed or out of
    disk resumes where it stopped when it is made again with the same arguments, and gives the same files, to the byte;
    other arguments or changed inputs start again.

    Args:
        inputs: Raw log or logs: tab-separated lines of a label, 13 counts, 26 hexadecimal categories; plain or `.gz`.
        output: Directory to write: complete or absent.
        dialect: `"classic"` or `"torchrec"`.
        max_ind_range: For `"classic"`: most rows of a table, or `None` for no limit.
        subsample: For `"classic"`: probability with which a row without a click is dropped.
        days: Parts of a single input; ignored for several inputs.
        shuffle: `"total"` permutes the training rows once, `"day"` each training day by itself, `"none"` keeps the
            order of the log. (Datasets can reshuffle every epoch.)
        seed: Seed of subsampling and shuffling, drawn in this order from one NumPy `RandomState`; the published one
            by default, 123 for `"classic"` and 0 for `"torchrec"`.
        table_sizes: For `"torchrec"`: rows of all tables, or of each of the 26; `None` for as many as there are ids.
        min_count: For `"torchrec"`: see above. The scripts' default is 1, the library's 3.
        on_error: `"raise"`: an error at the first line that cannot be used. `"skip"`: such lines are left out, counted
            and kept as examples in the manifest. The output is that of the log without them.
        max_skipped: With `"skip"`, an error when there are more; `None` for no limit.
        workers: Threads; as many as there are processors by default. The result is the same for any number.
        overwrite: Whether a processed directory at `output` may be replaced.
        reuse: Whether one at `output` that the same call wrote is opened instead: a program that is started again goes on
            from there.
        progress: Called as `progress(rows_done, rows_total, stage)`, with the stages `"read"` and `"write"`. While
            the log is read, the total is an estimate from the bytes.

    Returns:
        The written `ClickLog`, with dense columns I1 … I13 and categorical columns C1 … C26.

    Raises:
        FileNotFoundError: an input does not exist.
        FileExistsError: `output` exists, and neither `overwrite` nor `reuse` allows it.
        OSError: the disk is full, or an input cannot be read, such as a folder or a named pipe.
        ValueError: an argument out of range, a broken `.gz`, or a bad line, whose file, number and value the message names.

    Source: Naumov et al. 2019, arXiv:1906.00091, and its public code, facebookresearch/dlrm `data_utils.py`;
    pytorch/torchrec `datasets/criteo.py` and `datasets/scripts`.
    """
    max_ind_range = check_max_ind_range(max_ind_range)
    subsample = number("criteo", "subsample", subsample, below=1.0)
    rules = _rules(dialect, max_ind_range, subsample, table_sizes, min_count)
    choice("criteo", "shuffle", shuffle, SHUFFLES)
    seed = integer("criteo", "seed", rules.seed if seed is None else seed, 0, 2**32 - 1)
    paths = _paths(inputs)
    arguments = {
        "dialect": dialect,
        "max_ind_range": max_ind_range,
        "subsample": subsample,
        "days": integer("criteo", "days", days, 2) if len(paths) == 1 else len(paths),
        "shuffle": shuffle,
        "seed": seed,
        "table_sizes": table_sizes if table_sizes is None or isinstance(table_sizes, int) else list(table_sizes),
        "min_count": min_count,
    }
    bad = BadRows(on_error, max_skipped)
    place, threads = real_output(output), worker_count("criteo", workers)
    return CriteoJob(paths, rules, arguments, bad, progress).run(place, threads, overwrite, reuse)


def encode(inputs: Path_ | Sequence[Path_], max_ind_range: int | None = None) -> dict[str, np.ndarray]:
    """The first stage of the classic dialect by itself, in memory: numbers and ids; no logarithm, split or shuffle.

    Args:
        inputs: Raw log or logs.
        max_ind_range: Most rows of a table, or `None` for no limit.

    Returns:
        `"y"` int32 (N,), `"X_int"` int32 (N, 13) without negative values, `"X_cat"` int32 (N, 26), and `"counts"`
        int32 (26,), the rows of each table.
    """
    rules, workers = Dialect(check_max_ind_range(max_ind_range)), worker_count("criteo", None)
    with ThreadPoolExecutor(workers) as executor:
        encoder = Encoder(executor, workers, rules.modulo)
        labels, counts, ids = [np.empty(0, np.int32)], [np.empty((0, 13), np.int32)], [np.empty((0, 26), np.int32)]
        for path in _paths(inputs):
            for block in reader.read(path, executor, workers, BadRows()):
                labels.append(block.label.astype(np.int32))
                counts.append(np.maximum(block.counts, 0))
                ids.append(encoder.encode(block)[0])
    sizes = np.array([len(c) for c in encoder.columns], np.int32)
    return {"y": np.concatenate(labels), "X_int": np.concatenate(counts), "X_cat": np.concatenate(ids), "counts": sizes}


def _rules(dialect: str, max_ind_range: int | None, subsample: float, table_sizes: Any, min_count: int) -> Dialect:
    if dialect not in DIALECTS:
        raise ValueError(f"criteo: dialect={dialect!r} is unknown; this release has {DIALECTS}.")
    other = "torchrec" if dialect == "classic" else "classic"
    foreign = {"max_ind_range": max_ind_range is not None, "subsample": subsample != 0.0}
    if dialect == "classic":
        foreign = {"table_sizes": table_sizes is not None, "min_count": min_count != 1}
    for name, present in foreign.items():
        if present:
            raise ValueError(f"criteo: {name} belongs to dialect={other!r}; leave it out with dialect={dialect!r}.")
    return Dialect(max_ind_range) if dialect == "classic" else Torchrec(table_sizes, min_count)


def _paths(inputs: Path_ | Sequence[Path_]) -> list[Path]:
    entries = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    if not entries:
        raise ValueError("criteo: no inputs; give the raw log, or one file per day.")
    paths = [regular(path, "give the raw log (train.txt, or day_0 … day_23)") for path in entries]
    names = [str(path) for path in paths]
    meant = sorted(names, key=natural)
    if names == sorted(names) != meant:
        # The last day is validation and test, and ids follow the first appearance: the wrong order is another log.
        early, late = next((a, b) for a, b in zip(names, meant, strict=True) if a != b)
        raise ValueError(
            f"criteo: the inputs are a day each, in order, but {early} comes before {late}, as letters sort (and a shell's "
            "day_*); give them in the order of their numbers, as day_{0..23} does."
        )
    return paths
