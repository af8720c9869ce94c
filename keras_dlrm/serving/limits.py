"""Limits of the server, with their defaults: connections, headers, bytes of a request and of all that wait, time."""

import os
import threading
from dataclasses import dataclass, fields

from keras_dlrm.serving.wire.errors import ServingError

# File descriptors that stay free for a version that is loaded, and for what a library opens.
_SPARE_FILES = 32


@dataclass(frozen=True)
class Limits:
    """Bounds on what clients take of the server; docs/serving.md has them in a table.

    Args:
        bytes_in_flight: Bytes of all requests, at least of the largest one; beyond it: 503 or RESOURCE_EXHAUSTED.
        connections: Open connections, of REST and of gRPC each; the one that has waited longest makes room for others.
        client_connections: Open REST connections from one address.
        request_seconds: Time to send a request, from its first byte or the connection's start; to read an answer, too.
        idle_seconds: Time that a REST connection stays open without a request.
        header_bytes: Bytes of a request's line and headers, and of gRPC's metadata.
        headers: Number of a request's headers.

    Raises:
        ValueError: a bound that is not above 0.

    Example:

    >>> Limits(request_seconds=0)
    Traceback (most recent call last):
      ...
    ValueError: request_seconds=0 must be above 0.
    """

    bytes_in_flight: int = 64 * 2**20
    connections: int = 1024
    client_connections: int = 512
    request_seconds: float = 10.0
    idle_seconds: float = 5.0
    header_bytes: int = 16 * 2**10
    headers: int = 100

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name}={getattr(self, field.name)} must be above 0.")


def connections_that_fit(wanted: int) -> int:
    """`wanted` connections of each of the two servers, or half of the file descriptors that are free; at least 4."""
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft == resource.RLIM_INFINITY:
            return wanted
        taken = len(os.listdir("/proc/self/fd"))
    except (ImportError, OSError):
        return wanted
    return max(4, min(wanted, (soft - taken - _SPARE_FILES) // 2))


class Budget:
    """A number of bytes that all requests share.

    Example:

    >>> budget = Budget(10)
    >>> budget.take(8)
    >>> budget.take(3)
    Traceback (most recent call last):
      ...
    keras_dlrm.serving.wire.errors.ServingError: requests of more than 10 bytes are in flight already; try again.
    """

    def __init__(self, total: int) -> None:
        self._total, self._taken = total, 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Take some bytes; `ServingError`, and none is taken, where there are not so many left."""
        with self._lock:
            if self._taken + count > self._total:
                text = f"requests of more than {self._total} bytes are in flight already; try again."
                raise ServingError("RESOURCE_EXHAUSTED", text, 503)
            self._taken += count

    def give(self, count: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._taken -= count
