"""Files and folders that are written beside their place and renamed when they are complete."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path


def aside(output: Path, make: Callable[[Path], object]) -> tuple[Path, int]:
    """A new file or folder beside `output`, which belongs to this process. What killed ones left there is removed.

    Args:
        output: What it is to become.
        make: Makes it: `Path.mkdir` or `Path.touch`.

    Returns:
        Its path, and a descriptor that holds it until it is closed or the process ends.

    Example:

    >>> import tempfile
    >>> path, held = aside(Path(tempfile.mkdtemp()) / "log", Path.mkdir)
    >>> path.name.startswith(".log."), path.name.endswith(".writing")
    (True, True)
    >>> os.close(held)
    """
    # Not the ending of `Staging`, whose folders stay when their process is gone.
    name = re.compile(rf"\.{re.escape(output.name)}\.[0-9a-f]{{8}}\.writing")
    for path in output.parent.iterdir():
        if name.fullmatch(path.name):
            _remove_if_free(path)
    while True:
        path = output.parent / f".{output.name}.{uuid.uuid4().hex[:8]}.writing"
        make(path)
        held = _hold(path, fcntl.LOCK_EX)
        if held is not None:
            return path, held


def _remove_if_free(path: Path) -> None:
    held = _hold(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if held is not None:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        os.close(held)


def _hold(path: Path, how: int) -> int | None:
    """A descriptor that has the lock, or `None` where another process has it or has removed the path."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, how)
        same = os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        # Without locks on this disk nobody can tell what is left over: nothing is removed.
        same = not how & fcntl.LOCK_NB and path.exists()
    if not same:
        os.close(descriptor)
        return None
    return descriptor
