"""Checksums of files: alongside them, inside JSON and binary files, and of the members of zip archives."""

import hashlib
import json
import mmap
import os
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from keras_dlrm.files.documents import from_json
from keras_dlrm.files.paths import regular

Done = Callable[[int], None]
AGAIN = "copy it again, or write it again"
CHECKSUM = "checksum"
_PART = 2**22  # bytes at a time: the memory stays in the processor's cache


def digest(path: str | os.PathLike[str], done: Done = lambda size: None) -> str:
    """SHA-256 of a file, in hexadecimal digits; `done` is called with the bytes of each part that was read."""
    checksum, part = hashlib.sha256(), memoryview(bytearray(min(_PART, regular(path).stat().st_size + 1)))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(part):
            checksum.update(part[:size])
            done(size)
    return checksum.hexdigest()


def content_digest(content: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys and its layout on the disk.

    Example:

    >>> content_digest({"a": 1, "b": 2}) == content_digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the checksum of the rest of it under `"checksum"`.

    Example:

    >>> sorted(sealed({"rows": 3}))
    ['checksum', 'rows']
    """
    # As it comes back from a file: there all keys are texts.
    rest = json.loads(json.dumps({name: value for name, value in content.items() if name != CHECKSUM}))
    return {**rest, CHECKSUM: content_digest(rest)}


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object of a file; `ValueError`, which names the file, where it holds none."""
    try:
        # A run may have scores that are not finite.
        content = from_json(regular(path, "give a file in JSON").read_bytes().decode("utf-8"), finite=False)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {AGAIN}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds {type(content).__name__}, not an object; write it again.")
    return content


def unsealed(path: str | os.PathLike[str], content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object as it was before `sealed`; `ValueError`, naming the file that it comes from, where it is damaged."""
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    if content.get(CHECKSUM) != content_digest(rest):
        raise ValueError(f"{path} is damaged: its content does not match its checksum; {AGAIN}.")
    return rest


def read_sealed(path: str | os.PathLike[str], *, required: bool = True) -> dict[str, Any]:
    """Read a JSON object that was written as `sealed` makes it, without its checksum.

    With `required=False` a file without a checksum is taken as it is: earlier releases wrote none, and the caller decides
    by the version that the file names. One that lists other files under `"files"` always had one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a JSON object, or not the one that was written; the message names the file.

    Example:

    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_text(json.dumps(sealed({"rows": 3})).replace("3", "7", 1))
    >>> read_sealed(path)
    Traceback (most recent call last):
    ValueError: ...a.json is damaged: its content does not match its checksum; copy it again, or write it again.
    """
    content = read_json(path)
    return unsealed(path, content) if required or CHECKSUM in content or "files" in content else content


_MARK = b"keras_dlrm-sha256:"
_DIGITS = 64
# What a file holds until it is complete: see `seal`.
OPEN_SEAL = (_MARK + b"0" * _DIGITS).decode()


def seal(path: Path) -> None:
    """Replace the `OPEN_SEAL` in a complete file by the checksum of all its other bytes."""
    place, digits = _seal_of(path)
    if place < 0:
        raise RuntimeError(f"{path} has no place for its checksum.")
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(digits.encode())
        file.flush()
        os.fsync(file.fileno())


def check_seal(path: Path) -> bool:
    """Whether a file carries a checksum; `ValueError` where its other bytes are not those that were written."""
    place, digits = _seal_of(path)
    if place < 0:
        return False
    with open(path, "rb") as file:
        file.seek(place)
        if file.read(_DIGITS) != digits.encode():
            raise ValueError(f"{path} is damaged: its content does not match its checksum; {AGAIN}.")
    return True


def _seal_of(path: Path) -> tuple[int, str]:
    """Position of the seal's digits, -1 where there is none, and the digits that it should have."""
    if not path.stat().st_size:
        return -1, ""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        mark = content.rfind(_MARK)
        if mark < 0:
            return -1, ""
        place = mark + len(_MARK)
        digest = hashlib.sha256()
        for first, last in ((0, place), (place + _DIGITS, len(content))):
            for start in range(first, last, _PART):
                digest.update(content[start : min(start + _PART, last)])
        return place, digest.hexdigest()


KERAS = ("config.json", "metadata.json", "model.weights.h5")


def check_archive(path: Path, needed: Collection[str] = (), done: Done = lambda size: None) -> None:
    """Read all members of an archive, whose CRC-32 is compared; it must have the members that are `needed`.

    `FileNotFoundError` where there is no such file, `ValueError` where it is no archive, or damaged.
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
