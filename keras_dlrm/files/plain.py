"""Paths for libraries that take some characters of a path as a pattern."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path


def plain_path(path: Path, characters: str) -> Path:
    """An absolute path to the same file or folder without some characters: by a link that lasts as long as this process.

    Example:

    >>> plain_path(Path("/runs/best/1"), "*?[").as_posix()
    '/runs/best/1'
    >>> plain_path(Path("/runs/[best]/1"), "*?[").name
    '1'
    """
    path = path.absolute()
    last = max((i for i, part in enumerate(path.parts) if set(part) & set(characters)), default=None)
    if last is None:
        return path
    return _link(Path(*path.parts[: last + 1])).joinpath(*path.parts[last + 1 :])


@functools.cache
def _link(folder: Path) -> Path:
    link = Path(tempfile.mkdtemp(dir=_links()), "link")
    link.symlink_to(folder)
    return link


@functools.cache
def _links() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="keras-dlrm-links-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
