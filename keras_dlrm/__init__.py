"""Deep learning recommendation models for Keras 3 on TensorFlow, JAX and torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from keras_dlrm.schema.crosses import Crossed
from keras_dlrm.schema.open_vocabulary import Open
from keras_dlrm.schema.schema import Categorical, Dense, Schema
from keras_dlrm.schema.vectors import ContentVector, SemanticIds
from keras_dlrm.support.lazy import after_keras, lazy

if TYPE_CHECKING:
    from keras_dlrm import (
        checkpoint,
        convert,
        data,
        export,
        layers,
        losses,
        metrics,
        models,
        optimizers,
        retrieval,
        schedules,
        scoring,
        serving,
        sharding,
        tasks,
        training,
    )
    from keras_dlrm.artifacts import verify as verify
    from keras_dlrm.embeddings.host.host_tables import HostTables as HostTables
    from keras_dlrm.pipeline.run import Run as Run
    from keras_dlrm.pipeline.train import train as train
    from keras_dlrm.sharding.planner.planner import plan as plan
    from keras_dlrm.training.tuning import tune as tune

__version__ = "0.1.0"
__all__ = [
    "Categorical", "ContentVector", "Crossed", "Dense", "HostTables", "Open", "Run", "Schema", "SemanticIds", "checkpoint",
    "convert", "data", "export", "layers", "losses", "metrics", "models", "optimizers", "plan", "retrieval", "schedules", "scoring",
    "serving", "sharding", "tasks", "train", "training", "tune", "verify",
]  # fmt: skip
_FUNCTIONS = {
    "HostTables": "keras_dlrm.embeddings.host.host_tables", "Run": "keras_dlrm.pipeline.run",
    "plan": "keras_dlrm.sharding.planner.planner", "train": "keras_dlrm.pipeline.train", "tune": "keras_dlrm.training.tuning",
    "verify": "keras_dlrm.artifacts",
}  # fmt: skip
_MODULES = {name: name for name in __all__ if name not in _FUNCTIONS}
__getattr__, __dir__ = lazy(__name__, _FUNCTIONS, _MODULES)


def register() -> None:
    """Import the modules whose classes Keras has to know to load a saved model."""
    for name in ("models", "schedules", "metrics", "losses"):
        importlib.import_module(f"keras_dlrm.{name}")


def _register_later() -> None:
    from keras_dlrm.backend.private_keras import register_when_looked_up  # it imports Keras

    register_when_looked_up("keras_dlrm", register)


# `import keras_dlrm` is enough to load a model.
after_keras(_register_later)
