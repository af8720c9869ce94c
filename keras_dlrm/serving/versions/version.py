"""A version of a served model: its states, the requests that run on it, the files that it was read from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from keras_dlrm.schema.schema import Schema
from keras_dlrm.serving.versions.known_values import KnownValues
from keras_dlrm.serving.versions.saved_model import SavedModel
from keras_dlrm.serving.wire.errors import ServingError, invalid
from keras_dlrm.serving.wire.tensors import DEFAULT, Signature

# A folder's files, their sizes and times: what changes when somebody mends a broken version.
Fingerprint = tuple[tuple[str, int, int], ...]


class Version:
    """A version of a model, from its first sight in the folder to its end; states are called as in TensorFlow Serving."""

    def __init__(self, model_name: str, number: int, path: Path) -> None:
        self.model_name, self.number, self.path, self.state = model_name, number, path, "START"
        self.error: ServingError | None = None  # why it is not served, where loading failed
        self.fingerprint: Fingerprint = ()
        self.stamp: str | None = None  # state of the model, which deltas name as their base; `None` where nothing tells it
        # First row of the warm-up requests, by signature: arrays by input.
        self.examples: dict[str, dict[str, np.ndarray]] = {}
        self.schema: Schema | None = None  # the model's, where there is one that can be read
        self.known = KnownValues(self)
        self._model: SavedModel | None = None
        self.in_flight = 0  # requests that run now
        self._idle = threading.Condition()
        self._paused = False

    @property
    def model(self) -> SavedModel:
        """The loaded model."""
        if self._model is None:
            raise ServingError("UNAVAILABLE", f"version {self.number} of model {self.model_name!r} is not loaded.")
        return self._model

    def signature(self, name: str) -> Signature:
        """A signature by name, the empty name being that of `serving_default`; `ServingError` where there is none."""
        signatures = self.model.signatures
        name = name or DEFAULT
        if name not in signatures:
            names = ", ".join(map(repr, signatures)) or "none"
            raise invalid(f"version {self.number} of model {self.model_name!r} has no signature {name[:60]!r}; it has {names}.")
        return signatures[name]

    def publish(self, model: SavedModel) -> None:
        """Begin to serve the loaded model."""
        self._model, self.error, self.state = model, None, "AVAILABLE"

    def enter(self) -> bool:
        """Count a request in, which keeps the version loaded until `leave`; `False` where it takes no more of them."""
        with self._idle:
            self._idle.wait_for(lambda: not self._paused)
            if self.state != "AVAILABLE":
                return False
            self.in_flight += 1
            return True

    def leave(self) -> None:
        """Count an answered request out."""
        with self._idle:
            self.in_flight -= 1
            self._idle.notify_all()

    @contextmanager
    def paused(self, timeout: float) -> Iterator[bool]:
        """Let requests wait until the block ends, which begins when those that run are answered: `False` if that takes longer."""
        with self._idle:
            self._paused = True
            idle = self._idle.wait_for(lambda: self.in_flight == 0, timeout)
            if not idle:
                self._release()
        try:
            yield idle
        finally:
            with self._idle:
                self._release()

    def _release(self) -> None:
        self._paused = False
        self._idle.notify_all()

    def continued(self, number: int, stamp: str) -> Version:
        """The version of another number that serves this one's model from now on; nothing runs on this one, which is paused."""
        version = Version(self.model_name, number, self.path)
        version.examples, version.schema, version.known, version.stamp = self.examples, self.schema, self.known, stamp
        version.publish(self.model)
        return version

    def end(self) -> None:
        """Serve no more; the model is another version's."""
        self._model, self.state = None, "END"

    def retire(self, timeout: float | None = None) -> None:
        """Take no more requests, wait for those that run (for ever by default), and give the memory back."""
        with self._idle:
            self.state = "UNLOADING"
            self._idle.wait_for(lambda: self.in_flight == 0, timeout)
        if self._model is not None:
            self._model.close()
        self._model = None
        self.state = "END"


def fingerprint(path: Path) -> Fingerprint:
    """Names, sizes and times of the files under a version's folder; empty where it is gone."""
    files = []
    for file in sorted(path.rglob("*")):
        with suppress(OSError):  # removed while we look
            stat = file.stat()
            files.append((file.relative_to(path).as_posix(), stat.st_size, stat.st_mtime_ns))
    return tuple(files)
