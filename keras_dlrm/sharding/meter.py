"""Meter of the bytes that collectives send."""

import contextlib
from collections.abc import Callable
from typing import Any

from keras_dlrm.support.scoped import Scoped


class Meter:
    """Bytes that this process gave to others.

    On JAX a step's collectives are counted once, while it is compiled: the first step of a shape counts, for each of this process's
    devices alike.
    """

    def __init__(self) -> None:
        self._total = 0
        self._paused = Scoped(False)
        self.more: Callable[[], int] = lambda: 0

    def sent(self, count: int) -> None:
        """Count bytes."""
        if not self._paused.value:
            self._total += int(count)

    def paused(self) -> contextlib.AbstractContextManager[Any]:
        """While this context is open, nothing is counted."""
        return self._paused.using(True)

    @property
    def total(self) -> int:
        """Bytes since the start."""
        return self._total + self.more()


meter = Meter()
