"""The `.npz` files of the PyTorch reference DLRM, read as they are."""

import os
import re
from pathlib import Path

import numpy as np

from keras_dlrm.data.foreign.criteo_rows import CriteoSplit, check_days
from keras_dlrm.data.foreign.mlperf import read_counts
from keras_dlrm.data.foreign.pieces import NpzArray, Piece, by_split, check_array
from keras_dlrm.data.packed.packed import FileLog
from keras_dlrm.schema.criteo import check_max_ind_range, criteo_schema, id_modulo
from keras_dlrm.support.arguments import integer

_DAY = re.compile(r"(.*)_(\d+)_reordered\.npz")


def open(
    path: str | os.PathLike[str],
    max_ind_range: int | None = None,
    counts: str | os.PathLike[str] | None = None,
    days: int = 7,
) -> FileLog:
    """Open what the PyTorch reference DLRM's preprocessing of Criteo's logs left behind.

    Either one file (`kaggleAdDisplayChallenge_processed.npz`), whose rows are cut into days by the `*_day_count.npz`
    alongside it or, without one, into `days` equal parts; or a directory of a file per day (`day_0_reordered.npz` …
    `day_23_reordered.npz`, alongside `day_fea_count.npz`). As there, the last day is halved into the test split (the first
    half, the longer one) and the validation split, all other days are the training split, and counts become `log(x +
    1)`. Rows keep the order of the files.

    The reference compresses its files, so they cannot be mapped into memory: `batches` and `write` read them in passing,
    where their ids are row-major (`…_reordered.npz`), while `dataset` loads the split that it reads, 160 bytes a row.
    Convert once with `write` what does not fit.

    Args:
        path: The file or the directory.
        max_ind_range: Most rows of a table: ids are taken modulo this number. `None`: no limit.
        counts: `.npz` file with the rows of the 26 tables as `counts`; by default that of `path`, or alongside it.
        days: Days of a single file without a `*_day_count.npz`.

    Returns:
        The log: `.schema`, `.split("train" | "valid" | "test")`, and `.write(output)` to convert it.

    Raises:
        FileNotFoundError: no such file, or a day is missing.
        ValueError: a file is damaged, or its arrays do not fit each other.

    Source: facebookresearch/dlrm, `data_utils.py` and `dlrm_data_pytorch.py`.
    """
    path = Path(path)
    max_ind_range = check_max_ind_range(max_ind_range)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file; give the reference's .npz file, or the directory of a file per day."
        )
    pieces = _by_day(path) if path.is_dir() else _single(path, days)
    directory = path if path.is_dir() else path.parent
    if path.is_file() and counts is None:
        counts = path
    schema = criteo_schema(read_counts(directory, counts, max_ind_range))
    modulo = id_modulo(max_ind_range)
    cut = by_split(pieces, ("test", "valid"))
    parts = {name: CriteoSplit(name, schema, rows, tuple, True, modulo) for name, rows in cut.items()}
    return FileLog(directory, schema, parts)


def _piece(path: Path) -> Piece:
    columns = [NpzArray(path, name) for name in ("y", "X_int", "X_cat")]
    for column, width in zip(columns, ((), (13,), (26,)), strict=True):
        check_array(column, "iuf", width, " Give files that the reference's preprocessing wrote.")
    return Piece(str(path), columns)


def _by_day(directory: Path) -> list[Piece]:
    names = [match for path in directory.iterdir() if (match := _DAY.fullmatch(path.name))]
    paths, prefixes = {int(name[2]): directory / name[0] for name in names}, {name[1] for name in names}
    if len(prefixes) > 1:
        raise ValueError(f"{directory} holds the days of several logs, {sorted(prefixes)}; keep one to a directory.")
    check_days(directory, paths, "day_0_reordered.npz", "test and validation")
    return [_piece(paths[day]) for day in sorted(paths)]


def _single(path: Path, days: int) -> list[Piece]:
    whole = _piece(path)
    day_counts = sorted(path.parent.glob("*_day_count.npz"))
    if len(day_counts) > 1:
        names = [p.name for p in day_counts]
        raise ValueError(f"{path.parent} holds the day counts of several logs, {names}; keep one to a directory.")
    if day_counts:
        column = NpzArray(day_counts[0], "total_per_file")
        sizes = [int(n) for n in column.take(slice(0, len(column)))]
        if sum(sizes) != len(whole) or len(sizes) < 2:
            raise ValueError(
                f"{day_counts[0]} counts {sum(sizes)} rows in {len(sizes)} days, but {path} has {len(whole)}; they must agree, "
                "in at least two days."
            )
    else:
        each, longer = divmod(len(whole), integer("reference", "days", days, 2))
        sizes = [each + (day < longer) for day in range(days)]
    ends = np.cumsum([0, *sizes]).tolist()
    return [whole.part(start, stop) for start, stop in zip(ends[:-1], ends[1:], strict=True)]
