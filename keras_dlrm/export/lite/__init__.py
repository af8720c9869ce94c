"""LiteRT (TensorFlow Lite) files."""
