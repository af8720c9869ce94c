"""Stand-ins for tables, in a graph whose rows come from elsewhere."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_active = threading.local()


@contextlib.contextmanager
def stand_in_tables() -> Iterator[None]:
    """While this context is open, collections that are built on this thread make tables of one row.

    A model of any size is then rebuilt in next to no memory. Its lookups have to go through a tape (`lookup.taped`) that
    gives the real rows.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("C1", 10**9)])
    >>> collection = kd.layers.EmbeddingCollection(schema, 16)
    >>> with stand_in_tables():
    ...     collection.build()
    >>> tuple(collection.tables[0].shape)
    (1, 16)
    """
    previous = is_active()
    _active.on = True
    try:
        yield
    finally:
        _active.on = previous


def is_active() -> bool:
    """Whether collections make stand-ins now."""
    return getattr(_active, "on", False)
