"""Counts of unseen values in requests, in the background."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dlrm.data.preprocessor.unseen import Unseen
from keras_dlrm.serving.wire.tensors import nbytes

if TYPE_CHECKING:
    from keras_dlrm.serving.versions.version import Version

log = logging.getLogger("keras_dlrm.serving")
# Arrays that wait to be counted; those of requests beyond are not.
_WAITING_BYTES = 32 * 2**20
_SECONDS = 1.0
# Columns of a model that have time series of their own; the rest share one.
MAX_COLUMNS = 100


class UnseenValues:
    """Counts of one server by model and column, brought up to date every `seconds`."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._waiting: deque[tuple[Version, Mapping[str, np.ndarray]]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._sums: dict[tuple[str, str], list[int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="unseen", daemon=True)

    def start(self) -> None:
        """Count in a thread of its own from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Count no more."""
        self._stop.set()

    def note(self, version: Version, arrays: Mapping[str, np.ndarray]) -> None:
        """Have the inputs of a request, which nobody writes to any more, counted."""
        named = {name: array for name, array in arrays.items() if name in version.known.columns}
        if not named:
            return
        size = sum(map(nbytes, named.values()))
        with self._lock:
            if self._bytes + size <= _WAITING_BYTES:
                self._bytes += size
                self._waiting.append((version, named))

    def _work(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.flush()
            except Exception:
                log.exception("counting unseen values failed")

    def flush(self) -> None:
        """Count all that waits: many small requests at once cost little each."""
        with self._counting:
            with self._lock:
                waiting, self._waiting, self._bytes = self._waiting, deque(), 0
            together: defaultdict[tuple[Any, str], list[np.ndarray]] = defaultdict(list)
            for version, arrays in waiting:
                for name, array in arrays.items():
                    together[version, name].append(array.ravel())
            for (version, name), parts in together.items():
                column = version.known.columns[name]
                # Texts and ids of the same name come through different signatures.
                for kind in {part.dtype for part in parts}:
                    values = np.concatenate([part for part in parts if part.dtype == kind])
                    counted = version.known.count(column, values)
                    if counted is not None:
                        sums = self._sums_of(version.model_name, column.name)
                        sums[:] = [sums[0] + counted[0], sums[1] + counted[1]]

    def _sums_of(self, model: str, column: str) -> list[int]:
        if (model, column) not in self._sums and sum(known == model for known, _ in self._sums) >= MAX_COLUMNS:
            column = ""
        return self._sums.setdefault((model, column), [0, 0])

    def sums(self) -> list[tuple[str, Unseen]]:
        """Model, and values of one of its columns, or of those beyond the hundredth, whose name is empty then."""
        self.flush()
        with self._counting:
            return [(model, Unseen(column, *sums)) for (model, column), sums in self._sums.items()]
