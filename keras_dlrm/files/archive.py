"""Zip archives, such as `.keras` and `.npz` files, checked by their own checksums."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path

from keras_dlrm.files.inventory import AGAIN, Done
from keras_dlrm.files.regular import regular

KERAS = ("config.json", "metadata.json", "model.weights.h5")
_PART = 2**24


def check_archive(path: Path, needed: Collection[str] = (), done: Done = lambda size: None) -> None:
    """Read all members of an archive, whose CRC-32 is compared; it must have the members that are `needed`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no archive, or damaged.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "m.keras"
    >>> _ = path.write_bytes(b"PK" + bytes(90))
    >>> check_archive(path)
    Traceback (most recent call last):
    ValueError: ...m.keras is damaged, or only a part of it (File is not a zip file); copy it again, or write it again.
    """
    regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [name for name in needed if name not in archive.namelist()]
            if missing:
                raise ValueError(f"it has no {missing[0]}")
            for info in archive.infolist():
                with archive.open(info) as member:
                    size = 0
                    while part := member.read(_PART):
                        size += len(part)
                        done(len(part))
                if size != info.file_size:
                    raise ValueError(f"{info.filename} is cut short")
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # zipfile has a dozen ways to say it, RuntimeError and struct.error among them
        said = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} is damaged, or only a part of it ({said}); {AGAIN}.") from error
