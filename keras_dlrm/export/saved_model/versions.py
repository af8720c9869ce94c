"""Version numbers, and the rename that publishes a version."""

from __future__ import annotations

import os
from pathlib import Path


def next_version(directory: Path) -> int:
    """One more than the highest version of a folder; names that are no number, or one beyond int64, do not count."""
    names = (p.name for p in directory.iterdir())
    numbers = (int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 20)
    return max((number for number in numbers if number < 2**63 - 1), default=0) + 1


def publish(written: Path, final: Path, any_version: bool) -> Path:
    """Rename a complete version, on the same file system, into place; its final path.

    Where another export took its number meanwhile, it gets the next one, or is a `FileExistsError` unless `any_version`.
    """
    while True:
        try:
            os.rename(written, final)
        except OSError as error:
            if not final.exists():
                raise
            if not any_version:
                raise FileExistsError(
                    f"savedmodel: {final} appeared while this version was written; give another version, or none."
                ) from error
            final = final.with_name(str(next_version(final.parent)))
        else:
            return final
