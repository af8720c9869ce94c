"""Inference of a schema from rows of a table: sampling, labels, names, times, numbers, texts, lists, and the YAML with reasons."""
