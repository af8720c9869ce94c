"""Processes in which Keras runs on TensorFlow, whatever backend it runs on here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from keras_dlrm.sharding.processes import PARENT


def environment() -> dict[str, str]:
    """Environment variables of such a process, which imports what this one can import, and ends with it.

    Example:

    >>> environment()["KERAS_BACKEND"]
    'tensorflow'
    """
    found = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": os.pathsep.join(sys.path), PARENT: str(os.getpid())}
    found.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return found


def beside(path: Path) -> Path:
    """The path as seen from its folder, which becomes the process's: TensorFlow takes brackets, stars and the like for patterns.

    Args:
        path: A file or folder whose own name is plain.
    """
    os.chdir(path.parent)
    return Path(path.name)
