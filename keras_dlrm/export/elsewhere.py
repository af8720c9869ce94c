"""Helper processes in which Keras runs on TensorFlow."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def modules_of(who: str, model: Any) -> list[str]:
    """Modules that define the classes of a model's layers, the model's own included.

    Args:
        who: Function that errors name.
        model: The model.

    Raises:
        ValueError: a class is defined in the program that runs, which no other process imports.
    """
    classes = {type(layer) for layer in model._flatten_layers()}
    for own in classes:
        if own.__module__ == "__main__":
            raise ValueError(
                f"{who}: {own.__name__} is defined in the program itself, where the process that writes the model on TensorFlow "
                "does not find it; move it into a module and import it."
            )
    return sorted({own.__module__ for own in classes})


def import_modules(names: Iterable[str]) -> None:
    """Import the modules that there are, which registers their classes with Keras; of others Keras says what it lacks."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def beside(path: Path) -> Path:
    """The path as seen from its folder, which becomes the process's: TensorFlow takes brackets, stars and the like for patterns.

    Args:
        path: A file or folder whose own name is plain.
    """
    os.chdir(path.parent)
    return Path(path.name)
