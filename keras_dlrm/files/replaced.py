"""Files that may take the place of one of their own kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from keras_dlrm.files.durable import check_file


def is_png(start: bytes) -> bool:
    """Whether a file that begins so is a picture in the format PNG."""
    return start.startswith(b"\x89PNG\r\n\x1a\n")


def check_replaced(kind: str, path: Path, example: str, is_one: Callable[[bytes], bool]) -> None:
    """See that a model file may be written: there is none, or one of the same kind.

    Args:
        kind: The export or the option, for the error.
        path: The file.
        example: A name that it could have in a folder.
        is_one: Whether a file that begins with some bytes is of the kind.

    Raises:
        FileExistsError: there is another file, a link or a device.
        IsADirectoryError: there is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{kind}: {path} is a folder; give a file, such as {path / example}.")
    check_file(path, overwrite=True)
    if path.exists():
        with open(path, "rb") as file:
            if not is_one(file.read(32)):
                raise FileExistsError(f"{kind}: {path} is a file of another kind, which is not replaced; give another path.")
