"""Models for serving."""

from keras_dlrm.export.manifest import verify
from keras_dlrm.export.savedmodel import savedmodel

__all__ = ["savedmodel", "verify"]
