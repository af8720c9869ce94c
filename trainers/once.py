"""Preprocessing that a program does on its first start and not again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from keras_dlrm.cli.options import row_progress
from keras_dlrm.files.checksums import read_json
from keras_dlrm.files.durable import write


def preprocessed_once(
    output: Path, files: Iterable[Path], settings: Mapping[str, Any], preprocess: Callable[..., Any]
) -> Any:
    """The click log at `output/data`, preprocessed if it is not there.

    Args:
        output: Folder of the program.
        files: Its inputs, patterns expanded. Their sizes and times are remembered in `output/inputs.json`.
        settings: Everything else that decides on the result; values that JSON can hold.
        preprocess: Called as `preprocess(output=…, overwrite=…, progress=…)`; gives the log.

    Raises:
        ValueError: the log there was made from other files or settings.
    """
    from keras_dlrm import data

    stats = {str(file.resolve()): file.stat() for file in files}
    wanted = {
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
        "settings": json.loads(json.dumps(settings)),
    }
    known = output / "inputs.json"
    made = read_json(known) if known.exists() else None
    if made is not None and set(made) != set(wanted):
        raise ValueError(f"{known} was not written by this program; give another --output.")
    if made is not None and (output / "data").exists():
        if made != wanted:
            changed = "files" if made["files"] != wanted["files"] else "settings"
            raise ValueError(
                f"{output / 'data'} was made from other {changed} than now given (see {known}); give another --output, or "
                "delete that folder."
            )
        return data.open(output / "data")
    with row_progress("preprocess") as progress:
        log = preprocess(output=output / "data", overwrite=True, progress=progress)
    write(known, json.dumps(wanted, indent=2))
    return log
