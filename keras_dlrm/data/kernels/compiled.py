"""Loops over bytes and hash tables, compiled by Numba."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile a function for the types that it is first called with; other threads run while it does.

    The machine code is kept alongside the module or in the user's cache folder, so that only the first process compiles.
    """
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        # No folder can be written: each process compiles for itself.
        return cast(F, numba.njit(nogil=True)(function))
