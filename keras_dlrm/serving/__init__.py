"""A local stand-in for TensorFlow Serving: REST, gRPC, metrics, limits, a page that explains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.support.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.serving.server import Server as Server
    from keras_dlrm.serving.versions.config import ModelConfig as ModelConfig
    from keras_dlrm.serving.versions.config import read_config as read_config

__all__ = ["ModelConfig", "Server", "read_config"]

_NAMES = {"ModelConfig": "versions.config", "Server": "server", "read_config": "versions.config"}
__getattr__, __dir__ = lazy(__name__, _NAMES)
