"""How many threads a job has."""

from __future__ import annotations

import os


def worker_count(who: str, workers: int | None) -> int:
    """The number that was asked for; by default that of the processors.

    Raises:
        ValueError: it is no integer of at least 1.
    """
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"{who}: workers={workers!r} must be an integer of at least 1, or None for all processors.")
    return workers
