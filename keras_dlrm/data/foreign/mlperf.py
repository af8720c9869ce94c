"""The binary files of MLPerf's first DLRM benchmark, read as they are."""

import os
import re
from pathlib import Path

import numpy as np

from keras_dlrm.data.foreign.criteo_rows import CriteoSplit
from keras_dlrm.data.foreign.pieces import Arrays, NpzArray, Piece, Pieces
from keras_dlrm.data.packed.packed import FileLog
from keras_dlrm.files.mapped import MappedArray
from keras_dlrm.files.paths import regular
from keras_dlrm.schema.criteo import check_max_ind_range, check_sizes, criteo_schema, id_modulo

# int32: the label, 13 counts, 26 ids.
WIDTH = 40
_NAME = re.compile(r"(?:^|.*_)(train|val|test)(?:_data)?\.bin")


def open(
    directory: str | os.PathLike[str], max_ind_range: int | None = None, counts: str | os.PathLike[str] | None = None
) -> FileLog:
    """Open a directory of MLPerf's binary Criteo files: 160 bytes a row, mapped into memory.

    There is a file per split, `train_data.bin`, `val_data.bin` and `test_data.bin`, or `…_train.bin` and so on; those
    that are missing are splits that the log does not have. Counts become `log(x + 1)` when they are read.

    Args:
        directory: Where the files are.
        max_ind_range: Most rows of a table: ids are taken modulo this number. `None`: no limit.
        counts: `.npz` file with the rows of the 26 tables as `counts`; by default the only `*_fea_count.npz` there.

    Returns:
        The log: `.schema`, `.split("train" | "valid" | "test")`, and `.write(output)` to convert it.

    Raises:
        FileNotFoundError: no such directory, or none of the files in it.
        ValueError: a file is not made of whole rows.

    Example:

    ```python
    log = kd.data.mlperf.open("criteo-terabyte", max_ind_range=40_000_000)
    model.fit(log.split("train").dataset(2048), validation_data=log.split("valid").dataset(16_384))
    ```

    Source: facebookresearch/dlrm, `data_loader_terabyte.py`; mlcommons/training, `recommendation`.
    """
    directory = Path(directory)
    max_ind_range = check_max_ind_range(max_ind_range)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such directory; give the one that holds train_data.bin.")
    by_split: dict[str, list[Path]] = {}
    for path in sorted(directory.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match:
            by_split.setdefault("valid" if match[1] == "val" else match[1], []).append(path)
    if not by_split:
        raise FileNotFoundError(f"{directory} has no train_data.bin, val_data.bin or test_data.bin.")
    for name, paths in by_split.items():
        if len(paths) > 1:
            raise ValueError(
                f"{directory} has {len(paths)} files for the {name} split: {[p.name for p in paths]}; keep one."
            )
    schema = criteo_schema(read_counts(directory, counts, max_ind_range))
    modulo = id_modulo(max_ind_range)
    parts = {name: CriteoSplit(name, schema, _pieces(path), _columns, True, modulo) for name, (path,) in by_split.items()}
    return FileLog(directory, schema, parts)


def read_counts(directory: Path, counts: str | os.PathLike[str] | None, max_ind_range: int | None) -> list[int]:
    """Rows of the 26 tables, at most `max_ind_range` each, from `counts` or the directory's only such file."""
    if counts is None:
        candidates = sorted(directory.glob("*_fea_count.npz"))
        if len(candidates) != 1:
            names = [path.name for path in candidates]
            raise FileNotFoundError(
                f"{directory} has {names or 'no'} *_fea_count.npz, the file with the rows of the tables; say which with counts=…."
            )
        counts = candidates[0]
    path = Path(counts)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; counts=… gives the .npz file with the rows of the tables.")
    column = NpzArray(path, "counts")
    sizes = check_sizes(column.take(slice(0, len(column))), str(path))
    return sizes if max_ind_range is None else [min(size, int(max_ind_range)) for size in sizes]


def _pieces(path: Path) -> Pieces:
    size = regular(path, "get the file again").stat().st_size
    if size % (4 * WIDTH):
        raise ValueError(
            f"{path} has {size} bytes, which are not whole rows of {4 * WIDTH}: it is cut short or of another format."
        )
    shape = (size // (4 * WIDTH), WIDTH)
    return Pieces([Piece(str(path), [MappedArray(path, np.dtype("<i4"), shape, remedy="Get the file again.")])])


def _columns(arrays: Arrays) -> Arrays:
    (row,) = arrays
    return row[:, 0], row[:, 1:14], row[:, 14:]
