"""A served model, whose versions come and go with the folder: their states, loading and warm-up."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from keras_dlrm.files.inventory import check_version
from keras_dlrm.schema.schema import Schema
from keras_dlrm.serving.versions import operations
from keras_dlrm.serving.versions.config import ModelConfig
from keras_dlrm.serving.versions.features import missing_values, schema_of
from keras_dlrm.serving.versions.known_values import KnownValues
from keras_dlrm.serving.versions.saved_model import WARMUP, SavedModel, warmup_records
from keras_dlrm.serving.wire.errors import ServingError, invalid, without_paths
from keras_dlrm.serving.wire.tensors import DEFAULT, Signature

# A folder's files, their sizes and times: what changes when somebody mends a broken version.
Fingerprint = tuple[tuple[str, int, int], ...]
log = logging.getLogger("keras_dlrm.serving")
# What an int64 holds: a version travels as one.
LARGEST_VERSION = 2**63 - 1
# Warm-up requests, and bytes of each, as TensorFlow Serving has it.
MAX_RECORDS = 1000
_MAX_BYTES = 2**31


class Version:
    """A version of a model, from its first sight in the folder to its end; states are called as in TensorFlow Serving."""

    def __init__(self, model_name: str, number: int, path: Path) -> None:
        self.model_name, self.number, self.path, self.state = model_name, number, path, "START"
        self.error: ServingError | None = None  # why it is not served, where loading failed
        self.fingerprint: Fingerprint = ()
        # First row of the warm-up requests, by signature: arrays by input.
        self.examples: dict[str, dict[str, np.ndarray]] = {}
        self.schema: Schema | None = None  # the model's, where there is one that can be read
        self.known = KnownValues(self)
        self._model: SavedModel | None = None
        self.in_flight = 0  # requests that run now
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
        with suppress(OSError):  # removed while we look
            stat = file.stat()
            files.append((file.relative_to(path).as_posix(), stat.st_size, stat.st_mtime_ns))
    return tuple(files)


class ServedModel:
    """The versions of one model; `threads` are TensorFlow's for each version.

    `poll` loads what is new alongside what is served and swaps only afterwards: a version that cannot be loaded replaces
    nothing, is reported in `statuses` and in the log, and is tried again when its files change. An old version goes
    when all wanted ones are available, and its memory when its last request is answered.
    """

    def __init__(self, config: ModelConfig, threads: int = 0) -> None:
        self.config, self.threads = config, threads
        self._versions: dict[int, Version] = {}
        self._lock = threading.Lock()
        self._said: str | None = None

    @contextmanager
    def lease(self, number: int | None = None, label: str | None = None) -> Iterator[Version]:
        """An available version, kept loaded until the block ends: of a number or a label, by default the highest."""
        version = self._choose(number, label)
        while not version.enter():  # retired between the two calls: there is another by now, or an error says no
            version = self._choose(number, label)
        try:
            yield version
        finally:
            version.leave()

    def _choose(self, number: int | None, label: str | None) -> Version:
        name = self.config.name
        if label is not None:
            if label not in self.config.labels:
                names = ", ".join(map(repr, sorted(self.config.labels))) or "none"
                raise invalid(f"model {name!r} has no version label {label[:60]!r}; it has {names}.")
            number = self.config.labels[label]
        available = self.available
        if number is None and available:
            return available[max(available)]
        if number in available:
            return available[number]
        names = ", ".join(map(str, sorted(available))) or "none"
        wanted = "no version" if number is None else f"no version {number}" + (f" (label {label!r})" if label else "")
        raise ServingError("NOT_FOUND", f"model {name!r} has {wanted} to serve; available: {names}.")

    @property
    def available(self) -> dict[int, Version]:
        """The versions that answer requests, by number."""
        with self._lock:
            return {number: version for number, version in self._versions.items() if version.state == "AVAILABLE"}

    @property
    def versions(self) -> list[Version]:
        """All versions that were seen, the highest first."""
        with self._lock:
            return sorted(self._versions.values(), key=lambda version: -version.number)

    def statuses(self, number: int | None = None) -> list[Version]:
        """All versions that were seen, the highest first, or one of them; `ServingError` where there is none."""
        versions = [version for version in self.versions if number is None or version.number == number]
        if not versions:
            what = "no version" if number is None else f"no version {number}"
            raise ServingError("NOT_FOUND", f"model {self.config.name!r} has {what}.")
        return versions

    def poll(self) -> None:
        """Follow the folder: load what is new, then retire what is old."""
        folders = versions_in(self.config.base_path)
        wanted = self.config.wanted(sorted(folders))
        if not wanted:
            kept = ", ".join(map(str, self.available)) or "none"
            message = f"model {self.config.name!r}: nothing to load in {self.config.base_path}; serving {kept}"
            if self._said != message:
                log.warning(message)
            self._said = message
            return
        self._said = None
        for number in wanted:
            self._load(number, folders[number])
        with self._lock:
            states = {number: self._versions[number].state for number in wanted}
            old = [v for number, v in self._versions.items() if number not in wanted and v.state == "AVAILABLE"]
            for number, version in list(self._versions.items()):
                if number not in folders and version.state in ("END", "START"):
                    del self._versions[number]
        if set(states.values()) == {"AVAILABLE"}:
            for version in old:
                version.state = "UNLOADING"
                # In a thread of its own: a long request must not hold up the next version.
                name = f"retire-{self.config.name}-{version.number}"
                threading.Thread(target=self._retire, args=[version], name=name, daemon=True).start()

    def _load(self, number: int, path: Path) -> None:
        known = self._versions.get(number)
        if known is not None and known.state in ("AVAILABLE", "LOADING", "UNLOADING"):
            return
        now = fingerprint(path)
        if known is not None and known.error is not None and known.fingerprint == now:
            return
        version = Version(self.config.name, number, path)
        version.fingerprint, version.state = now, "LOADING"
        with self._lock:
            self._versions[number] = version
        start = time.perf_counter()
        try:
            model = load_and_warm_up(version, self.threads)
        except Exception as error:
            if not isinstance(error, ServingError):  # TensorFlow has many ways to refuse a damaged file
                log.exception("loading %s failed", path)
                error = ServingError("INTERNAL", f"{path} cannot be loaded: {type(error).__name__}; the log has the rest.")
            version.error = ServingError(error.code, without_paths(error.message, path, f"version {number}"))
            version.state = "END"
            kept = ", ".join(map(str, sorted(self.available))) or "none"
            log.error("model %r version %d is broken: %s Serving: %s", self.config.name, number, error, kept)
            return
        version.publish(model)
        took = time.perf_counter() - start
        log.info("model %r version %d is available (loaded and warmed up in %.1f s)", self.config.name, number, took)

    def _retire(self, version: Version) -> None:
        version.retire()
        log.info("model %r version %d is unloaded", self.config.name, version.number)

    def close(self, timeout: float) -> None:
        """Retire every version, waiting at most `timeout` seconds for the requests of each."""
        for version in self.available.values():
            version.retire(timeout)


def versions_in(folder: Path) -> dict[int, Path]:
    """Folders of versions by number; other names, and numbers beyond int64, are no versions. The folder may be gone."""
    try:
        entries = sorted(folder.iterdir(), reverse=True)
    except OSError:
        return {}
    names = {p: p.name for p in entries if p.name.isascii() and p.name.isdecimal() and p.is_dir()}
    return {int(name): path for path, name in names.items() if len(name) < 20 and int(name) <= LARGEST_VERSION}


def load_and_warm_up(version: Version, threads: int = 0) -> SavedModel:
    """Load a version, ready to serve, and replay the requests in `assets.extra/tf_serving_warmup_requests`.

    Where `assets.extra/manifest.json` lists the version's files with their checksums they are all read and compared first,
    which takes a second for each gigabyte or so. Other versions are loaded as TensorFlow Serving does it.

    The first row of each signature's first request becomes `version.examples`, which the page starts from. `ServingError` where
    it cannot be loaded, a file is damaged, or the model refuses one of its own warm-up requests.
    """
    try:
        check_version(version.path)
    except (ValueError, OSError) as error:
        raise ServingError("DATA_LOSS", f"{version.path} is not as it was published: {str(error).rstrip('.')}.") from error
    model = SavedModel(version.path, threads)
    try:
        version.schema = schema_of(version.path)
        for signature in model.signatures.values():
            signature.missing = missing_values(signature, version.schema)
        if not model.signatures:
            raise invalid(f"{version.path} has no signature; there is nothing to serve.")
        start, count = time.perf_counter(), 0
        for count, record in enumerate(warmup_records(version.path), 1):
            if count > MAX_RECORDS:
                raise invalid(f"{version.path / WARMUP} has more than {MAX_RECORDS} requests.")
            try:
                _replay(version, model, prediction_log_pb2.PredictionLog.FromString(record))
            except (DecodeError, ServingError) as error:
                why = "it is no PredictionLog" if isinstance(error, DecodeError) else str(error).rstrip(".")
                raise invalid(f"warm-up request {count - 1} of {version.path} fails: {why}.") from error
        if count:
            log.info("%s: %d warm-up requests in %.2f s", version.path, count, time.perf_counter() - start)
    except BaseException:
        model.close()
        raise
    return model


def _replay(version: Version, model: SavedModel, entry: Any) -> None:
    kind = entry.WhichOneof("log_type")
    if kind not in ("predict_log", "classify_log", "regress_log"):
        raise ServingError("UNIMPLEMENTED", f"a warm-up request of kind {kind} cannot be replayed")
    request = getattr(entry, kind).request
    name = request.model_spec.signature_name or DEFAULT
    if name not in model.signatures:
        raise invalid(f"the model has no signature {name!r}")
    signature = model.signatures[name]
    if kind == "predict_log":
        arrays = operations.arrays_from_proto(request.inputs, signature, _MAX_BYTES)
        operations.run(model, signature, arrays)
        if name not in version.examples and all(array.ndim and len(array) for array in arrays.values()):
            version.examples[name] = {key: np.array(array[:1]) for key, array in arrays.items()}
    else:
        answer = operations.classify if kind == "classify_log" else operations.regress
        answer(model, signature, request.input, _MAX_BYTES)
