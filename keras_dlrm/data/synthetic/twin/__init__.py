"""Twins: synthetic logs with the statistics of a real one."""
