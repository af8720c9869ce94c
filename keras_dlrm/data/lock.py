"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

LOCK = "lock"


def lock(folder: Path, taken: str) -> IO[str]:
    """Make a folder, where there is none, and lock it until the returned file is closed or the process ends.

    Args:
        folder: The folder.
        taken: What to say where another process holds it.

    Raises:
        RuntimeError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / LOCK, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RuntimeError(taken) from None
    return file
