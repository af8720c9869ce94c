"""Names of files inside other files: they stay in their own folder, or are refused."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any


def inside(folder: str | os.PathLike[str], name: Any, source: str | os.PathLike[str]) -> Path:
    """The place of a file in a folder, by the name that `source`, a file there, gives it: relative, with `/` in it.

    Raises:
        ValueError: the name is absolute, has `..` in it, or leads out of the folder through a symbolic link.

    Example:

    >>> inside("log", "train/label.npy", "log/manifest.json").as_posix()
    'log/train/label.npy'
    >>> inside("log", "../private.parquet", "log/manifest.json")
    Traceback (most recent call last):
    ValueError: log/manifest.json names the file '../private.parquet', which is not inside log; such a file is not opened.
    """
    whole = isinstance(name, str) and name and "\0" not in name and not Path(name).is_absolute()
    if whole and ".." not in PurePosixPath(name).parts and Path(name) != Path("."):
        path = Path(folder) / name
        # Resolving looks at every part of both: only where there is a link can they differ.
        if path.resolve().is_relative_to(Path(folder).resolve()):
            return path
    raise ValueError(f"{source} names the file {name!r}, which is not inside {folder}; such a file is not opened.")
