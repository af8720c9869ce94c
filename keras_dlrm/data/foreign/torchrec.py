"""The `.npy` files of TorchRec's Criteo preprocessing and of MLPerf's second DLRM benchmark, read as they are."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.foreign.criteo_rows import CriteoSplit, check_days
from keras_dlrm.data.foreign.pieces import Arrays, NpzArray, Piece, by_split, check_array
from keras_dlrm.data.packed.packed import FileLog
from keras_dlrm.files.mapped import MappedArray
from keras_dlrm.schema.criteo import check_sizes, criteo_schema

ONE_HOT, MULTI_HOT = "sparse.npy", "sparse_multi_hot.npz"


def open(directory: str | os.PathLike[str], table_sizes: Sequence[int], multi_hot: bool | None = None) -> FileLog:
    """Open a directory of `day_N_dense.npy`, `day_N_sparse.npy` and `day_N_labels.npy`, mapped into memory.

    As there, the last day is halved into the validation split (the first half, the longer one) and the test split (the
    reverse of the older reference), all other days are the training split, and ids are taken modulo the sizes of their
    tables. Dense values are transformed in the files already.

    Args:
        directory: Where the files are.
        table_sizes: Rows of the 26 tables.
        multi_hot: Whether to read the lists of ids of MLPerf's second benchmark, `day_N_sparse_multi_hot.npz`, instead
            of `day_N_sparse.npy`; by default whichever is there. They are pooled by sums.

    Returns:
        The log: `.schema`, `.split("train" | "valid" | "test")`, and `.write(output)` to convert it.

    Raises:
        FileNotFoundError: no such directory, or a file of a day is missing.
        ValueError: a file is damaged, or arrays do not fit each other.

    Source: pytorch/torchrec, `datasets/criteo.py`; facebookresearch/dlrm, `torchrec_dlrm/data/multi_hot_criteo.py`.
    """
    directory = Path(directory)
    sizes = check_sizes(table_sizes, "table_sizes")
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such directory; give the one that holds day_0_dense.npy.")
    days = sorted(int(m[1]) for p in directory.iterdir() if (m := re.fullmatch(r"day_(\d+)_dense\.npy", p.name)))
    check_days(directory, days, "day_0_dense.npy", "validation and test")
    if multi_hot is None:
        present = [(directory / f"day_0_{ending}").exists() for ending in (ONE_HOT, MULTI_HOT)]
        if all(present):
            raise ValueError(f"{directory} has both day_0_{ONE_HOT} and day_0_{MULTI_HOT}; say which with multi_hot=….")
        multi_hot = present[1]
    pieces = [_piece(directory, day, multi_hot) for day in days]
    *train, last = pieces
    hotness = [column.shape[1] for column in last.columns[2:]] if multi_hot else [1] * 26
    for piece in train:
        widths = [column.shape[1] for column in piece.columns[2:]] if multi_hot else hotness
        if widths != hotness:
            raise ValueError(f"{piece.name} has {widths} ids a row, {last.name} {hotness}; they must agree.")
    schema = criteo_schema(sizes, hotness, transform="none")
    # The reference hashes one id, and made the lists of ids that are in range.
    modulo = None if multi_hot else np.array(sizes, np.int32)
    cut = by_split(pieces, ("valid", "test"))
    parts = {name: CriteoSplit(name, schema, rows, _columns, False, modulo) for name, rows in cut.items()}
    return FileLog(directory, schema, parts)


def _piece(directory: Path, day: int, multi_hot: bool) -> Piece:
    dense, labels = (_npy(directory / f"day_{day}_{name}.npy") for name in ("dense", "labels"))
    check_array(dense, "f", (13,))
    check_array(labels, "iuf", (1,))
    columns: list[Any] = [labels, dense]
    if multi_hot:
        path = directory / f"day_{day}_{MULTI_HOT}"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, though there is day_{day}_dense.npy.")
        for name in range(26):
            column = NpzArray(path, str(name))
            if len(column.shape) != 2 or column.dtype.kind not in "iu":
                raise ValueError(f"{column.where} is {column.dtype} {column.shape}; it must hold ids, (N, ids a row).")
            columns.append(column)
    else:
        columns.append(_npy(directory / f"day_{day}_{ONE_HOT}"))
        check_array(columns[-1], "iu", (26,))
    return Piece(str(directory / f"day_{day}"), columns)


def _npy(path: Path) -> MappedArray:
    try:
        return MappedArray.npy(path, "Get the file again.")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; each day needs its dense, sparse and labels.") from None


def _columns(arrays: Arrays) -> Arrays:
    labels, dense, *sparse = arrays
    return labels[:, 0], dense, np.concatenate(sparse, axis=1) if len(sparse) > 1 else sparse[0]
