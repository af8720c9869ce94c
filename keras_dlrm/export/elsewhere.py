"""Helper processes in which Keras runs on TensorFlow."""

import contextlib
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import keras_dlrm.models  # noqa: F401  (registers the classes that are loaded)
from keras_dlrm.backend.private_keras import layers_in
from keras_dlrm.sharding.processes import PARENT, end_with_launcher

# What TensorFlow says whenever it starts.
_LOG = re.compile(r"[IWE]0000 00:00:|WARNING: All log messages before|To enable the following instructions")


def environment() -> dict[str, str]:
    """Environment variables of such a process, which imports what this one can import, and ends with it.

    Example:

    >>> environment()["KERAS_BACKEND"]
    'tensorflow'
    """
    own = {"KERAS_BACKEND": "tensorflow", "PYTHONPATH": os.pathsep.join(sys.path), PARENT: str(os.getpid())}
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **own}


def run(who: str, arguments: Sequence[str], rows: Iterable[np.ndarray] = ()) -> None:
    """Run Python in such a process, with rows on its standard input; `RuntimeError` with its last words if it fails.

    Of a process that says what it has not written, that line is all that the error tells.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=environment()
        )
        try:
            with contextlib.suppress(BrokenPipeError):  # what it says is told below
                for part in rows:
                    process.stdin.write(np.ascontiguousarray(part).data.cast("B"))  # type: ignore[union-attr]
                process.stdin.close()  # type: ignore[union-attr]
            code = process.wait()
        finally:
            process.kill()  # where this one is stopped
            process.wait()
        if not code:
            return
        errors.seek(0)
        lines = [line for line in errors.read().decode(errors="replace").splitlines() if line and not _LOG.match(line)]
    if lines and lines[-1].startswith("not written"):
        del lines[:-1]
    raise RuntimeError(f"{who}: " + ("\n".join(lines)[-4000:] or f"its process on TensorFlow ended with exit code {code}"))


def arguments() -> list[str]:
    """Arguments of such a process, which from now on ends with the one that launched it."""
    end_with_launcher()
    return sys.argv[1:]


def modules_of(who: str, model: Any) -> list[str]:
    """Modules that define a model's classes; `ValueError` for the program itself, which no other process imports."""
    classes = {type(layer) for layer in layers_in(model)}
    for own in classes:
        if own.__module__ == "__main__":
            fault = "in the program itself, where the process that writes the model on TensorFlow does not find it"
            raise ValueError(f"{who}: {own.__name__} is defined {fault}; move it into a module and import it.")
    return sorted({own.__module__ for own in classes})


def import_modules(names: Iterable[str]) -> None:
    """Import the modules that there are, which registers their classes with Keras; of others Keras says what it lacks."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
