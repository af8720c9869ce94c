"""Paths: regular input files, patterns in natural order, columns in folders' names, files of a folder, links to plain names."""

import atexit
import functools
import glob
import gzip
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote


def natural(name: str | os.PathLike[str]) -> tuple[list[str | int], str]:
    """A sort key.

    Example:

    >>> sorted(["day_10", "day_2", "day_1"], key=natural)
    ['day_1', 'day_2', 'day_10']
    """
    text = os.fspath(name)
    # Texts and numbers take turns, so that like is compared with like.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", text))], text


_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
# What stands in a path for each byte that is not UTF-8 (PEP 383).
_NOT_UTF8 = "".join(map(chr, range(0xDC80, 0xDD00)))
_BOM = b"\xef\xbb\xbf"
# A file with more than this before its first letter is not an empty one.
_HEAD = 2**16


def regular(path: str | os.PathLike[str], remedy: str = "give a file") -> Path:
    """The path of a file that can be opened without waiting for anybody; `remedy` ends the error messages.

    Raises:
        FileNotFoundError: there is nothing of that name.
        IsADirectoryError: a folder.
        OSError: a named pipe, a socket or a device: reading it may never end.

    Example:

    >>> regular("/dev/zero")
    Traceback (most recent call last):
    OSError: /dev/zero is a device, which may never end; give a file.
    """
    path = Path(path)
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file; {remedy}.") from None
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(f"{path} is a folder; {remedy}.")
    if kind != stat.S_IFREG:
        raise OSError(f"{path} is {_KINDS.get(kind, 'no file')}, which may never end; {remedy}.")
    return path


def matches(entry: str | os.PathLike[str]) -> list[Path]:
    """Whatever a path or a pattern names, in the order of the numbers in the names.

    What exists literally is taken literally, the folders in front of a pattern, too. `**` stands for any folders.

    Example:

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "run[1]"
    >>> folder.mkdir()
    >>> for name in ("day_10", "day_9"):
    ...     (folder / name).touch()
    >>> [path.name for path in matches(folder / "day_*")]
    ['day_9', 'day_10']
    """
    path = Path(entry)
    if os.path.lexists(path) or not glob.has_magic(str(entry)):
        return [path]
    known = Path(path.anchor)
    rest = list(path.parts[1 if path.anchor else 0 :])
    while len(rest) > 1 and os.path.lexists(known / rest[0]):
        known /= rest.pop(0)
    names = glob.glob(os.path.join(*rest), root_dir=known, recursive=True)
    return [known / name for name in sorted(names, key=natural)]


# What Hive and Spark call a folder of rows without a value.
_MISSING = "__HIVE_DEFAULT_PARTITION__"


def folder_values(path: Path) -> dict[str, str]:
    """Column → value, as the folders of a path name them, percent-decoded; empty where missing.

    Example:

    >>> folder_values(Path("log/day=2024-01-01/city=S%C3%A3o%20Paulo/part-0.parquet"))
    {'day': '2024-01-01', 'city': 'São Paulo'}
    """
    pairs = (part.partition("=") for part in path.parent.parts)
    named = {unquote(key): unquote(value) for key, mark, value in pairs if key and mark}
    return {key: "" if value == _MISSING else value for key, value in named.items()}


def blank(path: Path, keep: bytes = b"") -> bool:
    """True where a text file, plain or `.gz`, holds nothing but a byte order mark and white space that is not in `keep`."""
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        head = file.read(_HEAD)
    space = bytes(c for c in b" \t\r\n\v\f" if c not in keep)
    return len(head) < _HEAD and not head.removeprefix(_BOM).strip(space)


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
    links = tempfile.mkdtemp(prefix="keras-dlrm-links-")
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    link = Path(links, "link")
    link.symlink_to(folder)
    return link


def utf8_path(path: Path) -> Path:
    """An absolute path to the same file or folder that is UTF-8: Polars takes no other."""
    return plain_path(path, _NOT_UTF8)


def as_typed(path: Path) -> str:
    """A path as one would write it in the working folder.

    Example:

    >>> as_typed(Path.cwd() / "runs" / "a"), as_typed(Path("/data"))
    ('runs/a', '/data')
    """
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
