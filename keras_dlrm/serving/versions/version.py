"""One version of a model: its state, and the requests that use it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_dlrm.schema.schema import Schema
from keras_dlrm.serving.versions.known_values import KnownValues
from keras_dlrm.serving.wire.errors import ServingError, invalid
from keras_dlrm.serving.wire.signature import DEFAULT, Signature

if TYPE_CHECKING:
    from keras_dlrm.serving.versions.saved_model import SavedModel

# A folder's files, their sizes and times: what changes when somebody mends a broken version.
Fingerprint = tuple[tuple[str, int, int], ...]


class Version:
    """A version of a model, from its first sight in the folder to its end.

    Attributes:
        state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`, as TensorFlow Serving names them.
        error: Why it is not served, where loading failed.
        schema: The model's, where there is one that can be read.
        known: Values that its vocabularies know.
        examples: First row of the warm-up requests, by signature: arrays by input.
    """

    def __init__(self, model_name: str, number: int, path: Path) -> None:
        self.model_name, self.number, self.path, self.state = model_name, number, path, "START"
        self.error: ServingError | None = None
        self.fingerprint: Fingerprint = ()
        self.examples: dict[str, dict[str, np.ndarray]] = {}
        self.schema: Schema | None = None
        self.known = KnownValues(self)
        self._model: SavedModel | None = None
        #: Requests that run now.
        self.in_flight = 0
        self._idle = threading.Condition()

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

    def fail(self, error: ServingError) -> None:
        """Note that loading failed."""
        self.error, self.state = error, "END"

    def enter(self) -> bool:
        """Count a request in, which keeps the version loaded until `leave`; `False` where it takes no more of them."""
        with self._idle:
            if self.state != "AVAILABLE":
                return False
            self.in_flight += 1
            return True

    def leave(self) -> None:
        """Count an answered request out."""
        with self._idle:
            self.in_flight -= 1
            self._idle.notify_all()

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
        try:
            stat = file.stat()
        except OSError:  # removed while we look
            continue
        files.append((file.relative_to(path).as_posix(), stat.st_size, stat.st_mtime_ns))
    return tuple(files)
