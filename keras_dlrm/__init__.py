"""Deep learning recommendation models for Keras 3 on TensorFlow, JAX and torch."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from keras_dlrm.schema import Categorical, Dense, Schema

if TYPE_CHECKING:
    from keras_dlrm import convert, data, export, layers, metrics, models, optimizers, schedules, training

__version__ = "0.1.0"
__all__ = [
    "Categorical",
    "Dense",
    "Schema",
    "convert",
    "data",
    "export",
    "layers",
    "metrics",
    "models",
    "optimizers",
    "schedules",
    "training",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command line can then choose the backend before Keras is imported.
    if name in __all__:
        return importlib.import_module(f"keras_dlrm.{name}")
    raise AttributeError(f"module 'keras_dlrm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if "keras" in sys.modules:
    # The backend is chosen already. Keras loads a saved model only where its classes are registered, and
    # `import keras, keras_dlrm` has to be enough for that.
    for _name in ("models", "schedules", "metrics"):
        importlib.import_module(f"keras_dlrm.{_name}")
