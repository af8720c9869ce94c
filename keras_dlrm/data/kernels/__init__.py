"""Compiled loops (Numba): text fields, normal forms of values, hashes, ids by first appearance."""
