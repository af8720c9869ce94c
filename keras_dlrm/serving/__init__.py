"""A local stand-in for TensorFlow Serving, for development and tests: the same wire contract over REST and gRPC."""

from keras_dlrm.support.lazy import lazy

__all__ = ["ModelConfig", "Server", "read_config"]

_NAMES = {"ModelConfig": "versions.config", "Server": "server", "read_config": "versions.config"}
__getattr__, __dir__ = lazy(__name__, _NAMES)
