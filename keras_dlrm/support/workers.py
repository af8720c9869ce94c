"""Number of threads of a job."""

from __future__ import annotations

import os

from keras_dlrm.support.arguments import integer


def worker_count(who: str, workers: int | None) -> int:
    """The number that was asked for; by default that of the processors. `ValueError` unless it is at least 1."""
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return integer(who, "workers", workers)
