"""Served versions of a model: loading, checking, warming up, swapping."""
