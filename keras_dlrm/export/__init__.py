"""Models for serving."""

from keras_dlrm.export.savedmodel import savedmodel

__all__ = ["savedmodel"]
