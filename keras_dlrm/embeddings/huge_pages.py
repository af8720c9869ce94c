"""Huge pages for large tables and their slots, on Linux."""

import ctypes
import functools
from pathlib import Path
from typing import Any

from keras_dlrm import backend

# What fits the processor's table of pages in pieces of 4 KiB gains nothing.
LEAST = 1 << 24  # bytes
# Of one call: the kernel holds up other threads that ask for memory while it moves pages.
AT_ONCE = 1 << 26  # bytes
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25  # of Linux's mman.h
_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")


def use_huge_pages(variable: Any) -> None:
    """Have Linux back a variable's memory with huge pages, where it is in this machine's memory and is large.

    A batch's rows are scattered over a table. In pages of 4 KiB nearly each of them misses the processor's table of pages,
    which takes as long as reading the row: a step on a table of 5·10⁷ rows takes a tenth to a third longer. The frameworks
    leave their memory in small pages, and so does a kernel whose setting is `madvise`. With `never` nothing is done, and
    where the kernel has no room for huge pages, or is older than 6.1, the rest stays as it is. The variable's memory must be its
    own already: this comes before the first row is written.
    """
    place = backend.memory(variable) if _page_size() else None
    if place is None or place[1] < LEAST:
        return
    page = _page_size()
    first, last = -(-place[0] // page) * page, (place[0] + place[1]) // page * page
    # The first is for pages that nobody has touched yet, the second for those that have been.
    for start in range(first, last, AT_ONCE):
        size = min(AT_ONCE, last - start)
        if _madvise()(start, size, _MADV_HUGEPAGE) == 0:
            _madvise()(start, size, _MADV_COLLAPSE)


@functools.cache
def _page_size() -> int:
    """Bytes of a huge page; 0 where there are none."""
    try:
        enabled = (_SETTINGS / "enabled").read_text()
        return 0 if "[never]" in enabled else int((_SETTINGS / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0


@functools.cache
def _madvise() -> Any:
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
