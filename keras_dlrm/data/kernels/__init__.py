"""Compiled loops over text, ids and values."""
