"""Models for serving."""

from keras_dlrm.export.compare import compare_tables
from keras_dlrm.export.litert import litert
from keras_dlrm.export.manifest import verify
from keras_dlrm.export.onnx import onnx
from keras_dlrm.export.savedmodel import savedmodel

__all__ = ["compare_tables", "litert", "onnx", "savedmodel", "verify"]
