"""Check of a published version against its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_dlrm.files.checksums import CHECKSUM, read_json
from keras_dlrm.files.inventory import Done, check_folder

FILE = Path("assets.extra") / "manifest.json"
FORMAT = "keras_dlrm published model"
VERSION = 2  # 1 had no checksum of the manifest itself


def check_version(path: Path, done: Done = lambda size: None) -> dict[str, Any] | None:
    """Compare all files of a version with its manifest, which is returned; `None` where there is none of this package.

    `done` is called with the bytes of each part that was read. `ValueError` names a file that is missing, damaged or unknown.
    """
    source = path / FILE
    if not source.is_file():
        return None
    content = read_json(source)
    # One of ours whose first line is damaged still has its checksum.
    if content.get("format") != FORMAT and CHECKSUM not in content:
        return None
    return check_folder(path, source, done)
