"""Lock on a folder for one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from keras_dlrm.files.ownership import LOCK


def lock(folder: Path, taken: str) -> IO[str]:
    """Make a folder, where there is none, and lock it until the returned file is closed or the process ends.

    `RuntimeError`, which says what `taken` says, where another process holds it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # Whatever has that name is not written to, and a link is not followed.
            file = open(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
        except FileNotFoundError:
            continue  # Whoever had it has just removed the folder.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
                return file
        except BlockingIOError:
            file.close()
            raise RuntimeError(taken) from None
        except FileNotFoundError:
            pass
        # The lock of a folder that is gone, or that was made anew, holds nothing.
        file.close()


@contextlib.contextmanager
def held(folder: Path, taken: str) -> Iterator[None]:
    """Hold the lock of a folder, made where there is none, which goes afterwards if nothing else is in it; see `lock`."""
    file = lock(folder, taken)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if not os.fstat(file.fileno()).st_size:  # else somebody's file of that name
                (folder / LOCK).unlink()
            folder.rmdir()
        file.close()
