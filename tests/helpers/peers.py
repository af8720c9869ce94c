"""Interpreters of other libraries, in which their own models run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


def interpreter(variable: str, package: str, requirements: str) -> str:
    """The Python that has a package; the test is skipped where there is none."""
    named = os.environ.get(variable)
    if named:
        if not Path(named).is_file():
            raise FileNotFoundError(f"{variable}={named}: no such interpreter.")
        return named
    if importlib.util.find_spec(package) is not None:
        return sys.executable
    pytest.skip(
        f"needs {package} in an environment of its own (benchmarks/peers/{requirements} says how to make it); set {variable} to "
        "its interpreter"
    )


def run(python: str, *arguments: object, **environment: str) -> str:
    """Output of a program of another interpreter."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "KERAS_"))}
    done = subprocess.run(
        [python, *map(str, arguments)], env={**clean, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
