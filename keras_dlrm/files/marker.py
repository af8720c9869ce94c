"""Marker file of a folder: what it holds, and whether that is what was written."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_dlrm.files.checksums import sealed, unsealed
from keras_dlrm.files.paths import regular

MARKER = ".keras_dlrm"
FORMAT = "keras_dlrm folder"
VERSION = 1


def is_marker(name: str) -> bool:
    """True for a marker, and for what a kill left of one: it is written under a name of its own, and renamed.

    Example:

    >>> is_marker(".keras_dlrm"), is_marker(".keras_dlrm.0123abcd"), is_marker("keras_dlrm")
    (True, True, False)
    """
    return re.fullmatch(rf"{re.escape(MARKER)}(\.[0-9a-f]{{8}})?", name) is not None


def marker_text(owner: str, files: Sequence[str]) -> str:
    """Text of a marker: the folder's owner, and the names that are written there."""
    return json.dumps(sealed({"format": FORMAT, "version": VERSION, "id": owner, "files": list(files)}))


def marker_content(data: bytes) -> dict[str, Any] | None:
    """Content of a marker, `"id"` and `"files"`; `None` where it is none.

    Example:

    >>> marker_content(marker_text("me", ["a.npy"]).encode())["files"]
    ['a.npy']
    >>> marker_content(marker_text("me", ["a.npy"]).replace("a.npy", "b.npy").encode())
    """
    try:
        content = unsealed(MARKER, json.loads(data))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
    known = content.get("format") == FORMAT and content.get("version") == VERSION and isinstance(content.get("files"), list)
    return content if known else None


def check_marker(folder: str | os.PathLike[str]) -> None:
    """`ValueError` where a folder has a marker, and it is not as it was written."""
    path = Path(folder) / MARKER
    if os.path.lexists(path) and marker_content(regular(path).read_bytes()) is None:
        raise ValueError(f"{path} is damaged; copy the folder again, or remove that file: then nothing here is ever overwritten.")
