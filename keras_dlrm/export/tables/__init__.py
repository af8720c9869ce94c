"""Embedding tables in an export: stored kinds, quantization, pruning of untrained rows."""
