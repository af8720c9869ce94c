"""Reuse of the memory that a training step frees."""

import ctypes
import os

KEPT = 1 << 30  # bytes
# glibc unmaps a whole heap (64 MiB) of a thread as soon as nothing in it is used, whatever the threshold of trimming, unless
# that would leave less free than the pad (malloc's heap_trim, glibc 2.36). The pad is address space: pages not written stay
# unmapped.
PAD = 128 << 20
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep up to 1 GiB of what is freed, instead of giving it back to Linux and asking for it again.

    Who tunes malloc by environment variables (`MALLOC_TRIM_THRESHOLD_` and the like, `GLIBC_TUNABLES`) keeps those settings.
    Other allocators take no notice, and systems without glibc have none to tell.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt(_M_TRIM_THRESHOLD, KEPT)
    mallopt(_M_TOP_PAD, PAD)
    mallopt(_M_MMAP_THRESHOLD, KEPT)
