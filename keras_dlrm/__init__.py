"""Deep learning recommendation models for Keras 3 on TensorFlow, JAX and torch."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_dlrm.schema.schema import Categorical, Dense, Schema

if TYPE_CHECKING:
    from keras_dlrm import (
        checkpoint,
        convert,
        data,
        export,
        layers,
        metrics,
        models,
        optimizers,
        schedules,
        scoring,
        serving,
        sharding,
        training,
    )
    from keras_dlrm.artifacts import verify as verify
    from keras_dlrm.sharding.planner.planner import plan as plan

__version__ = "0.1.0"
__all__ = [
    "Categorical",
    "Dense",
    "Schema",
    "checkpoint",
    "convert",
    "data",
    "export",
    "layers",
    "metrics",
    "models",
    "optimizers",
    "plan",
    "schedules",
    "scoring",
    "serving",
    "sharding",
    "training",
    "verify",
]
_FUNCTIONS = {"plan": "keras_dlrm.sharding.planner.planner", "verify": "keras_dlrm.artifacts"}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in __all__:
        return importlib.import_module(f"keras_dlrm.{name}")
    raise AttributeError(f"module 'keras_dlrm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def register() -> None:
    """Make the package's classes known to Keras, which loads a saved model only where they are."""
    for name in ("models", "schedules", "metrics"):
        importlib.import_module(f"keras_dlrm.{name}")


def _chooses_backend_later() -> bool:
    """Whether this process is the command line, or one of this repository's programs, whose `--backend` comes before Keras.

    A program of anybody else may have an option of that name with a meaning of its own.
    """
    program = Path(sys.argv[0] if sys.argv else "")
    if program.name == "keras-dlrm" or "keras_dlrm.cli" in sys.orig_argv:
        return True
    ours = Path(__file__).resolve().parent.parent
    chooses = any(argument.partition("=")[0] == "--backend" for argument in sys.argv[1:])
    return chooses and any(ours / folder in program.resolve().parents for folder in ("trainers", "benchmarks"))


# `import keras_dlrm` is enough to load a model.
if not _chooses_backend_later():
    register()
