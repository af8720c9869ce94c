"""Twins: statistics of a private log, and synthetic logs drawn from them."""
