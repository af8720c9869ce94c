"""Checksums of an ONNX file and of the tables' file beside it, in the file's own metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keras_dlrm.files.inventory import Done, check_contents, check_sizes, inventory
from keras_dlrm.files.seal import OPEN_SEAL, check_seal

_FILES, _SEAL = "keras_dlrm.files", "keras_dlrm.checksum"


def add_checksums(model: Any, data: Path | None) -> None:
    """Add to a ModelProto what `check` compares; its file is to be sealed by `files.seal.seal`.

    Args:
        model: The ModelProto.
        data: The tables' file, complete; `None` where the tables lie in the model.
    """
    files = {} if data is None else inventory(data.parent, [data.name])
    for key, value in ((_FILES, json.dumps(files)), (_SEAL, OPEN_SEAL)):
        model.metadata_props.add(key=key, value=value)


def check(path: Path, done: Done = lambda size: None) -> list[Path] | None:
    """Compare an ONNX file, and the tables' file that it names, with their checksums.

    Args:
        path: The file.
        done: Called with the bytes of each part that was read.

    Returns:
        The files; `None` where it carries no checksum.

    Raises:
        ValueError: a file is damaged, missing, or not beside `path`; the message names it.
    """
    if not check_seal(path):
        return None
    done(path.stat().st_size)
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    entries = json.loads(properties[_FILES])
    places = check_sizes(path.parent, entries, path)
    check_contents(places, entries, done)
    return [path, *places.values()]
