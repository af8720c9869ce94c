"""Input files: regular files only, by name or pattern, and whether they are empty."""

from __future__ import annotations

import glob
import gzip
import os
import stat
from pathlib import Path

from keras_dlrm.files.natural_order import natural

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_BOM = b"\xef\xbb\xbf"
# A file with more than this before its first letter is no empty one.
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


def blank(path: Path, keep: bytes = b"") -> bool:
    """True where a text file, plain or `.gz`, holds nothing but a byte order mark and white space that is not in `keep`."""
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        head = file.read(_HEAD)
    space = bytes(c for c in b" \t\r\n\v\f" if c not in keep)
    return len(head) < _HEAD and not head.removeprefix(_BOM).strip(space)
