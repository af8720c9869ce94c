"""Helpers of every layer: argument checks, values, lazy imports, result tables, progress bars."""
