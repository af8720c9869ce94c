"""A served model, whose versions come and go with the folder, as deltas do, which change the one that is served."""

import logging
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_dlrm.files.deltas import SUFFIX, Delta, base_of, chain, is_delta
from keras_dlrm.serving.versions.config import ModelConfig
from keras_dlrm.serving.versions.loading import load_and_warm_up, published
from keras_dlrm.serving.versions.version import Version, fingerprint
from keras_dlrm.serving.wire.errors import ServingError, invalid, without_paths

log = logging.getLogger("keras_dlrm.serving")
# What an int64 holds: a version travels as one.
LARGEST_VERSION = 2**63 - 1
# Seconds that requests may wait for those that run; beyond it a delta is applied to a model of its own, loaded alongside.
_LONGEST_PAUSE = 1.0


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
            self._load(number, folders[number], wanted)
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

    def _load(self, number: int, path: Path, wanted: Collection[int]) -> None:
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
            if is_delta(path) and self._apply(path, wanted):
                took = time.perf_counter() - start
                log.info("model %r version %d is available (applied to what was served in %.3f s)", self.config.name, number, took)
                return
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

    def _apply(self, path: Path, wanted: Collection[int]) -> bool:
        """Bring a served version that is no longer wanted to the state of a delta, in place; `False` where there is none.

        Its cost is that of the rows that changed, in time and memory. Requests wait meanwhile, so that no answer mixes versions.
        """
        bases = {version.stamp: version for number, version in sorted(self.available.items()) if number not in wanted}
        with published(path):
            steps = chain(path, bases)
            if not is_delta(steps[0]):
                return False
            following: Version | None = bases[base_of(steps[0])["state"]]
        for step in steps:  # one after the other: what is served is always one of them
            following = following and self._advance(following, step)
        return following is not None

    def _advance(self, version: Version, path: Path) -> Version | None:
        """The version after one delta; `None` where requests run for too long."""
        with published(path):
            delta = Delta(path)
        replace = version.model.updates.prepared(delta)
        with version.paused(_LONGEST_PAUSE) as idle:
            if not idle:
                return None
            replace()
            following = version.continued(int(path.stem), delta.state)
            following.fingerprint = fingerprint(path)
            if following.number not in self.available:  # else one on the way that stays
                with self._lock:
                    self._versions[following.number] = following
            version.end()
        return following

    def _retire(self, version: Version) -> None:
        version.retire()
        log.info("model %r version %d is unloaded", self.config.name, version.number)

    def close(self, timeout: float) -> None:
        """Retire every version, waiting at most `timeout` seconds for the requests of each."""
        for version in self.available.values():
            version.retire(timeout)


def versions_in(folder: Path) -> dict[int, Path]:
    """Folders of versions, or of deltas where there is no version, by number; other names, and numbers beyond int64, are neither.

    The folder may be gone.
    """
    try:
        entries = sorted(folder.iterdir(), reverse=True)
    except OSError:
        return {}
    numbers = {path: path.name.removesuffix(SUFFIX) for path in entries if path.is_dir()}
    known = {path: name for path, name in numbers.items() if name.isascii() and name.isdecimal() and len(name) < 20}
    # Versions last, in place of the deltas that they were made of.
    ordered = sorted(known.items(), key=lambda item: not is_delta(item[0]))
    return {int(name): path for path, name in ordered if int(name) <= LARGEST_VERSION}
