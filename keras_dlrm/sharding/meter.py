"""Meter of the bytes that collectives send."""

import contextlib
from collections.abc import Callable, Iterator


class Meter:
    """Bytes that this process gave to others.

    On JAX a step's collectives are counted once, while it is compiled: the first step of a shape counts, for each of this process's
    devices alike.
    """

    def __init__(self) -> None:
        self._total = 0
        self._pauses = 0
        self.more: Callable[[], int] = lambda: 0

    def sent(self, count: int) -> None:
        """Count bytes."""
        if not self._pauses:
            self._total += int(count)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While this context is open, nothing is counted."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1

    @property
    def total(self) -> int:
        """Bytes since the start."""
        return self._total + self.more()


meter = Meter()
