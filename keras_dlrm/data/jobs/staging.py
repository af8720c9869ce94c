"""Staged files and rows alongside an output, which survive a kill at any moment."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from keras_dlrm.files.durable import publish
from keras_dlrm.files.ownership import claim, clear, identity, remove

STATE = "state.json"
COMPLETE = "complete"
_STAGED = ".staged"
# What is written here; the rest is somebody else's, and stays.
_FILES = (STATE, f"{STATE}.new", f"*{_STAGED}", f"{COMPLETE}/**", ".writing-*/**")
_WHAT = "a stopped job"


class Staging(contextlib.AbstractContextManager["Staging"]):
    """A hidden directory alongside `output`, of files that are appended to and a state that is committed with them.

    What was appended before a commit is there when the same job starts again, to the byte; what came after it is cut
    off. So a job that resumes from `state` gives the same files as one that was never stopped.

    Args:
        output: What the job is to write. The directory is `.{name}.partial` alongside it.
        job: JSON values that say what the job is: arguments, and its inputs' names, sizes and times (`fingerprint`).
            What another job left behind of the same output is removed.

    Attributes:
        directory: Where the files are.
        complete: Directory in which the output is put together.
        state: What the last commit was given, or `None` where nothing was committed.

    Raises:
        FileExistsError: there is a directory of that name with something else in it.
        RuntimeError: another process is working on the same output.

    Example:

    >>> import tempfile
    >>> output = Path(tempfile.mkdtemp()) / "log"
    >>> with Staging(output, {"job": 1}) as staging:
    ...     staging.append("ids", b"abc")
    ...     staging.commit({"rows": 3})
    ...     staging.append("ids", b"lost")
    >>> with Staging(output, {"job": 1}) as staging:
    ...     staging.state, staging.path("ids").read_bytes()
    ({'rows': 3}, b'abc')
    """

    def __init__(self, output: str | os.PathLike[str], job: Mapping[str, Any]) -> None:
        output = Path(output)
        self.directory = staging_directory(output)
        self.complete = self.directory / COMPLETE
        self._owner = identity("staging", output)
        taken = f"{output}: another process is writing it; wait for that one or give another output."
        output.parent.mkdir(parents=True, exist_ok=True)
        self._held = claim(self.directory, self._owner, _WHAT, taken, _FILES)
        # As it will be when it comes back from its file.
        self._job = json.loads(json.dumps(job))
        self._files: dict[str, IO[bytes]] = {}
        self._lengths: dict[str, int] = {}
        self._cuts: dict[str, int] = {}
        self.state: Any = None
        self._resume()

    def _resume(self) -> None:
        try:
            saved = json.loads((self.directory / STATE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            saved = {}
        lengths = saved.get("lengths", {}) if saved.get("job") == self._job else {}
        if lengths and all(self._has(name, size) for name, size in lengths.items()):
            self.state = saved["state"]
            self._lengths = lengths
        kept = {self.path(name).name for name in self._lengths} | ({STATE} if self._lengths else set())
        clear(self.directory, self._owner, _WHAT, kept)
        for name, size in self._lengths.items():
            os.truncate(self.path(name), size)

    def _has(self, name: str, size: int) -> bool:
        """True where a file exists, is not a link, and holds at least so many bytes."""
        path = self.path(name)
        return path.is_file() and not path.is_symlink() and path.stat().st_size >= size

    def path(self, name: str) -> Path:
        """Path of the file `name`."""
        return self.directory / (name + _STAGED)

    def append(self, name: str, data: bytes | memoryview) -> None:
        """Add to the end of a file, which is made where there is none."""
        if name not in self._files:
            self._files[name] = open(self.path(name), "ab")
        self._files[name].write(data)

    def cut(self, name: str, size: int) -> None:
        """Shorten a file to `size` bytes with the next commit; what was committed before needs all of it until then."""
        file = self._files.pop(name, None)
        if file is not None:
            file.close()
        self._cuts[name] = size

    def flush(self) -> None:
        """Let readers of the files see what was appended."""
        for file in self._files.values():
            file.flush()

    def commit(self, state: Any) -> None:
        """Keep all that was appended so far, together with a JSON value that says how far the job is."""
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            self._lengths[name] = file.tell()
        self._lengths.update(self._cuts)
        content = {"job": self._job, "state": state, "lengths": self._lengths}
        aside = self.directory / f"{STATE}.new"
        aside.write_text(json.dumps(content), encoding="utf-8")
        publish(aside, self.directory / STATE)
        for name, size in self._cuts.items():
            os.truncate(self.path(name), size)
        self._cuts = {}
        self.state = state

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            # What was not committed may be lost, also because the disk is full.
            with contextlib.suppress(OSError):
                file.close()
        if not self._lengths:
            # Nothing to resume from, or nothing to continue for.
            with contextlib.suppress(OSError):
                clear(self.directory, self._owner, _WHAT)
                remove(self.directory, self._owner, _WHAT)
        os.close(self._held)

    def remove(self) -> None:
        """Have it all deleted at the end: the output is complete, or the job is given up."""
        self._lengths = {}


def staging_directory(output: Path) -> Path:
    """Directory of the files until `output` is complete."""
    return output.parent / f".{output.name}.partial"


def fingerprint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Name, size and time of change of an input: whether it is still the file that a stopped job had read."""
    stat = os.stat(path)
    return {"path": str(Path(path).resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


# A commit waits for the disk, so there is one every so many bytes: a kill costs a second or two of work.
COMMIT_BYTES = 2**27
# Rows at a time when they are read back. Statistics are sums over such chunks, so this is part of the result.
CHUNK = 65_536


class Stage(contextlib.AbstractContextManager["Stage"]):
    """Staged rows in a file per array. A thread writes them while the next rows are worked on.

    Args:
        staging: Where the files are.
        specs: dtype and width by array; a width of `None` is a one-dimensional array, 0 one without a file.
        header: Bytes before the first row of a file.
        ahead: Parts that may wait to be written.
    """

    def __init__(
        self, staging: Staging, specs: Mapping[str, tuple[Any, int | None]], header: int = 0, ahead: int = 1
    ) -> None:
        self.staging, self.specs = staging, specs
        self._header, self._ahead = header, ahead
        self._thread = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._uncommitted = 0

    def write(self, parts: Iterable[tuple[str, np.ndarray]], state: Any) -> None:
        """Append arrays to files; `state` is what a commit after them keeps."""
        self._wait(self._ahead - 1)
        self._pending.append(self._thread.submit(self._write, parts, state))

    def _write(self, parts: Iterable[tuple[str, np.ndarray]], state: Any) -> None:
        for name, array in parts:
            data = as_bytes(array)
            self.staging.append(name, data)
            self._uncommitted += len(data)
        if self._uncommitted >= COMMIT_BYTES:
            self.staging.commit(state)
            self._uncommitted = 0

    def _wait(self, most: int = 0) -> None:
        """Wait until at most `most` parts are still to be written; raise what went wrong with the others."""
        while len(self._pending) > most:
            self._pending.popleft().result()

    def commit(self, state: Any) -> None:
        """Keep all that was written."""
        self._wait()
        self.staging.commit(state)
        self._uncommitted = 0

    def read(self, name: str, first: int, last: int) -> np.ndarray:
        """Committed rows `first … last - 1` of an array."""
        dtype, width = self.specs[name]
        if width == 0:
            return np.empty((last - first, 0), dtype)
        columns = width or 1
        offset = self._header + first * columns * np.dtype(dtype).itemsize
        values = np.fromfile(self.staging.path(name), dtype, (last - first) * columns, offset=offset)
        return values if width is None else values.reshape(-1, width)

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def chunks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """First and last row of each chunk of the rows `first … last - 1`."""
    for start in range(first, last, CHUNK):
        yield start, min(start + CHUNK, last)


def as_bytes(array: np.ndarray) -> memoryview:
    """The memory of an array, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
