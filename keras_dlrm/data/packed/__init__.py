"""Packed logs: the format, its writer, and its readers."""
