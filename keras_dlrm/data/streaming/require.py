"""Import of tensorflow-io, or an error that says how to get it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import warnings
from types import ModuleType

TENSORFLOW = "2.16"
INSTALL = (
    "Make an environment of its own with Python 3.11 or 3.12: pip install -r requirements-io.txt, then "
    "pip install --no-deps . in a clone of keras_dlrm; see docs/streaming.md"
)


def tensorflow_io(who: str, module: str = "tensorflow_io") -> ModuleType:
    """Import tensorflow-io, or a module of it; `who` needs it is for the error.

    Its native code is linked against one TensorFlow: beside another one it imports, and fails at the first operation.

    Raises:
        ImportError: it is not installed, or beside a TensorFlow that it cannot work with.
    """
    version = "none"
    for name in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
    if version.split(".")[:2] != TENSORFLOW.split("."):
        raise ImportError(
            f"{who} needs tensorflow-io, whose native operations load on TensorFlow {TENSORFLOW}.x only; here is TensorFlow "
            f"{version}. {INSTALL}."
        )
    try:
        with warnings.catch_warnings():
            # Its module for Kafka announces a successor, which neither seeks nor tells offsets.
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who} needs tensorflow-io, which cannot be imported ({error}). {INSTALL}.") from error
