"""Natural order of names: numbers in them by their values."""

from __future__ import annotations

import os
import re


def natural(name: str | os.PathLike[str]) -> tuple[list[str | int], str]:
    """A sort key.

    Example:

    >>> sorted(["day_10", "day_2", "day_1"], key=natural)
    ['day_1', 'day_2', 'day_10']
    """
    text = os.fspath(name)
    # Texts and numbers take turns, so that like is compared with like.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", text))], text
