"""Embedding tables in an export: stored, quantized, or left untrained."""
