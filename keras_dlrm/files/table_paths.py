"""Files of tables by path, pattern or folder."""

import os
import re
from pathlib import Path

from keras_dlrm.files.marker import MARKER
from keras_dlrm.files.paths import matches, natural

# Text and records may be compressed.
_TABLES = re.compile(r"\.(parquet|pq|(csv|tsv|tfrecords?)(\.gz)?)$", re.IGNORECASE)


def table_paths(entry: str | os.PathLike[str]) -> list[Path]:
    """Whatever a path or a pattern names, as of `matches`; instead of a folder the tables below it, in natural order.

    Names that begin with `.` or `_` are left out, as Hive and Spark do.

    Raises:
        FileNotFoundError: a folder has no tables, or this package wrote it.

    Example:

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("part-10.csv", "part-9.csv", "_SUCCESS", ".part-9.csv.crc"):
    ...     (folder / name).touch()
    >>> [path.name for path in table_paths(folder)]
    ['part-9.csv', 'part-10.csv']
    """
    paths: list[Path] = []
    for path in matches(entry):
        paths += _tables_below(path) if path.is_dir() else [path]
    return paths


def _tables_below(folder: Path) -> list[Path]:
    if (folder / MARKER).exists():
        raise FileNotFoundError(f"{folder} is a folder that this package wrote; give raw files, or a folder of these.")
    names = (path.relative_to(folder) for path in folder.rglob("*") if _TABLES.search(path.name) and path.is_file())
    shown = sorted((name for name in names if not any(part[0] in "._" for part in name.parts)), key=natural)
    if not shown:
        raise FileNotFoundError(f"{folder} is a folder without tables; give one of .csv, .tsv, .tfrecord or .parquet files.")
    return [folder / name for name in shown]
