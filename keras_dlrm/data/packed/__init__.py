"""Processed directories: format, writer, reader, shuffle order and batches for `fit`."""
