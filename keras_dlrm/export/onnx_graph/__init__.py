"""ONNX files: Keras layers and operations as nodes of a graph."""
