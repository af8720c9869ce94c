"""Memory that a training step of TensorFlow frees stays with the process for the next one."""

from __future__ import annotations

import ctypes
import functools
import sys

import tensorflow as tf

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST = 1 << 25  # bytes: glibc knows no higher threshold
_KEPT = 1 << 28  # bytes


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep what is freed, instead of giving it back to Linux and asking for it again in the next step.

    TensorFlow takes the outputs of its operations on a CPU from `malloc`, and its `from_generator`, which Keras makes of a
    `PyDataset`, has glibc map each block above 128 KiB anew (TensorFlow 2.21, `ApplyPython311MemoryPatch`, once a process).
    Linux then clears such a block page by page: at a batch of 2,048 a step of DLRM touched 28,000 new pages and took 1.6
    times as long. Here blocks up to 32 MiB come from memory that was freed, glibc's own limit, and up to 256 MiB of it
    are kept. Allocators put in glibc's place by `LD_PRELOAD` ignore this, and systems without glibc know nothing of it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    # So that TensorFlow has set its limit before and does not set it again.
    list(tf.data.Dataset.from_generator(lambda: iter([0.0]), output_signature=tf.TensorSpec((), tf.float32)))
    mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
