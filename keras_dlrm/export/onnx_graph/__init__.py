"""ONNX files: a model's layers as nodes of a graph."""
