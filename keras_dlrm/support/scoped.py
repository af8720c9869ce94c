"""`Scoped`: a value that another one stands in for while a context is open."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any


class Scoped(threading.local):
    """A value on each thread, which contexts replace.

    Example:

    >>> depth = Scoped(0)
    >>> with depth.using(1):
    ...     depth.value
    1
    >>> depth.value
    0
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    @contextlib.contextmanager
    def using(self, value: Any) -> Iterator[Any]:
        """While this context is open, the value is another one on this thread."""
        before, self.value = self.value, value
        try:
            yield value
        finally:
            self.value = before
