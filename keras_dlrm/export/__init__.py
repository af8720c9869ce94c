"""Models for serving: SavedModel, ONNX, LiteRT, their signatures and tables in fewer bytes."""

from keras_dlrm.export.compare import compare_tables
from keras_dlrm.export.lite.litert import litert
from keras_dlrm.export.onnx_graph.export import onnx
from keras_dlrm.export.saved_model.delta import apply, delta
from keras_dlrm.export.saved_model.manifest import verify
from keras_dlrm.export.saved_model.savedmodel import savedmodel

__all__ = ["apply", "compare_tables", "delta", "litert", "onnx", "savedmodel", "verify"]
