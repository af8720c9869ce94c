"""Read-ahead: threads read the next batches while the present one is used."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Reads item after item, some of them ahead of time, each in a thread of its own.

    What is read depends on the item's key alone, so neither the order nor the content depends on how the threads run.
    An error of a thread is raised where its item is asked for. Items that nobody asks for are forgotten when another
    one than the next is: nothing has to be closed, and the threads end when this object is gone.
    `read` reads the item of a key; `ahead` is how many are read ahead, with 0 none, and by no thread.
    """

    def __init__(self, read: Callable[[Any], T], ahead: int) -> None:
        self._read = read
        self._ahead = ahead
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._reading: dict[Any, Future[T]] = {}

    def get(self, key: Any, following: list[Any]) -> T:
        """The item of a key; those of the `following` keys are read ahead."""
        if not self._ahead:
            return self._read(key)
        with self._lock:
            if self._process != os.getpid():  # A fork has our futures, but none of the threads that would finish them.
                self._pool, self._reading, self._process = None, {}, os.getpid()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._ahead, thread_name_prefix="keras_dlrm-read-ahead")
            reading = self._reading.pop(key, None)
            wanted = following[: self._ahead]
            for stale in self._reading.keys() - set(wanted):
                self._reading.pop(stale).cancel()
            for other in wanted:
                if other not in self._reading:
                    self._reading[other] = self._pool.submit(self._read, other)
        return self._read(key) if reading is None else reading.result()

    def __getstate__(self) -> dict[str, Any]:
        return {"_read": self._read, "_ahead": self._ahead}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_read"], state["_ahead"])  # type: ignore[misc]


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Items read ahead: a thread gets the next one while the present one is worked on.

    Example:

    >>> list(one_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="keras_dlrm-one-ahead") as thread:
        following: Future[Any] = thread.submit(next, items, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, items, end)
            yield item
