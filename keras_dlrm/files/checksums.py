"""Checksums of files, and JSON files with a checksum of their own content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from keras_dlrm.files.documents import from_json
from keras_dlrm.files.regular import regular

CHECKSUM = "checksum"
_PART = 2**22  # bytes at a time: the memory stays in the processor's cache


def digest(path: str | os.PathLike[str], done: Callable[[int], None] = lambda size: None) -> str:
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
        raise ValueError(f"{path} is damaged ({error}); copy it again, or write it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds {type(content).__name__}, not an object; write it again.")
    return content


def unsealed(path: str | os.PathLike[str], content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object as it was before `sealed`; `ValueError`, naming the file that it comes from, where it is damaged."""
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    if content.get(CHECKSUM) != content_digest(rest):
        raise ValueError(f"{path} is damaged: its content does not match its checksum; copy it again, or write it again.")
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
