"""Files that are written beside their place, flushed to the disk, and only then renamed: the old one or the new one stays."""

from __future__ import annotations

import os
from pathlib import Path

from keras_dlrm.data.aside import aside


def write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file so that a kill or a power failure leaves what was there before, or all of the new one.

    Args:
        path: The file. A symbolic link to one stays, and the file is replaced.
        data: Its content; a text is written as UTF-8.

    Raises:
        OSError: it cannot be written; the file is then as it was. Also where it is a device, a pipe or a folder.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "plan.json"
    >>> write(path, "{}")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('{}', 1)
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file; give the path of a file.")
    written, held = aside(path, Path.touch)
    try:
        written.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        publish(written, path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    finally:
        os.close(held)


def publish(written: Path, path: Path) -> None:
    """Flush a file or a folder that is complete, and give it its name; the name is on the disk, too, when this returns.

    Args:
        written: The file, in the same folder as `path`. Of a folder, its list of files is flushed, not what they hold.
        path: What it becomes. A file of that name is replaced.
    """
    sync(written)
    os.replace(written, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the list of a folder's files, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
