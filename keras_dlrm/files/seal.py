"""Checksum inside a binary file."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

_MARK = b"keras_dlrm-sha256:"
_DIGITS = 64
# What a file holds until it is complete: see `seal`.
OPEN_SEAL = (_MARK + b"0" * _DIGITS).decode()
_PART = 2**24


def seal(path: Path) -> None:
    """Replace the `OPEN_SEAL` in a complete file by the checksum of all its other bytes.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.tflite"
    >>> _ = path.write_bytes(b"weights" + OPEN_SEAL.encode())
    >>> seal(path)
    >>> check_seal(path)
    True
    >>> _ = path.write_bytes(path.read_bytes().replace(b"weights", b"Weights"))
    >>> check_seal(path)
    Traceback (most recent call last):
    ValueError: ...model.tflite is damaged: its content does not match its checksum; copy it again, or write it again.
    """
    found, digits = _found(path)
    if found < 0:
        raise RuntimeError(f"{path} has no place for its checksum.")
    with open(path, "r+b") as file:
        file.seek(found + len(_MARK))
        file.write(digits.encode())
        file.flush()
        os.fsync(file.fileno())


def check_seal(path: Path) -> bool:
    """Whether a file carries a checksum.

    Raises:
        ValueError: it does, and its other bytes are not those that were written.
    """
    found, digits = _found(path)
    if found < 0:
        return False
    with open(path, "rb") as file:
        file.seek(found + len(_MARK))
        if file.read(_DIGITS) != digits.encode():
            raise ValueError(f"{path} is damaged: its content does not match its checksum; copy it again, or write it again.")
    return True


def _found(path: Path) -> tuple[int, str]:
    """Position of the seal, -1 where there is none, and the digits that it should have."""
    if not path.stat().st_size:
        return -1, ""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.rfind(_MARK)
        if place < 0:
            return -1, ""
        digits = place + len(_MARK), place + len(_MARK) + _DIGITS
        found = hashlib.sha256()
        for first, last in ((0, digits[0]), (digits[1], len(content))):
            for start in range(first, last, _PART):
                found.update(content[start : min(start + _PART, last)])
        return place, found.hexdigest()
