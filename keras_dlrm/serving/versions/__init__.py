"""Served versions: loading, checking, warming up, swapping, running."""
