"""Ownership of folders: only those with this package's marker are deleted, and one process works in one."""

import contextlib
import fcntl
import hashlib
import os
import pwd
import stat
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from keras_dlrm.files.marker import MARKER, is_marker, marker_content, marker_text

LOCK = "lock"
ALL = ("**",)
_MOST_BYTES = 1 << 24  # of a marker
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK
_MOUNTS = Path("/proc/self/mountinfo")


def identity(kind: str, name: str | Path) -> str:
    """Checksum for the marker of a folder: of its kind, such as `"run"`, and of what it was made for.

    `name` is a `Path` for a folder that belongs to one place, or a text for one that may be copied with the folder around it.

    Example:

    >>> identity("run", Path("a")) == identity("run", Path("b/../a")), identity("run", Path("a")) == identity("run", Path("b"))
    (True, False)
    """
    place = name if isinstance(name, str) else os.path.realpath(name)
    return hashlib.sha256(f"{kind}\0{place}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def mark(folder: Path, owner: str, files: Sequence[str] = ALL) -> int:
    """Write into a folder whose it is, as `identity` gives it, and hold it; it is new or empty, or this process's own.

    `files` are the names, relative to the folder, that are written there; `*` is any part of a name, `**` anything below.
    No other process removes the folder until the descriptor that is returned is closed, or this process ends.
    """
    written = folder / f"{MARKER}.{uuid.uuid4().hex[:8]}"
    held = os.open(written, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o666)
    try:
        with open(held, "w", encoding="utf-8", closefd=False) as text:
            text.write(marker_text(owner, files))
        with contextlib.suppress(OSError):  # a disk without locks: what is left over there stays
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(written, folder / MARKER)
    except BaseException:
        os.close(held)
        with contextlib.suppress(OSError):
            written.unlink()
        raise
    return held


def claim(folder: Path, owner: str, what: str, taken: str, files: Sequence[str] = ALL) -> int:
    """Hold a folder, made where there is none: a descriptor, as of `mark`.

    `what` and `taken` are for errors: what the folder is, such as `"a run"`, and what to say where another process
    holds it (`RuntimeError`). `FileExistsError` where there is something else, which is not empty.
    """
    while True:
        with contextlib.suppress(FileNotFoundError), _opened(folder) as (_, place):
            if os.listdir(place):
                _files_of(folder, place, owner, what)
                try:
                    return _locked(place, MARKER)
                except BlockingIOError:
                    raise RuntimeError(taken) from None
        made, held = new_folder(folder.parent, owner, files)
        try:
            os.rename(made, folder)  # also in place of an empty one
            return held
        except OSError:
            remove(made, owner, what)
            os.close(held)
            if not folder.exists():
                raise


def new_folder(parent: Path, owner: str, files: Sequence[str] = ALL) -> tuple[Path, int]:
    """A new hidden folder, and a descriptor that holds it. What killed processes left of the same owner is removed."""
    remove_left(parent, owner)
    while True:
        folder = parent / f".writing-{uuid.uuid4().hex[:12]}"
        folder.mkdir()
        try:
            return folder, mark(folder, owner, files)
        except FileNotFoundError:
            if folder.exists():
                raise
            # Another process took it for one that a kill had left unmarked.


def remove_left(parent: Path, owner: str) -> None:
    """Remove the hidden folders of an owner that killed processes left. One that is held, or has other content, stays."""
    for left in list(parent.glob(".writing-*")):
        with contextlib.suppress(OSError, RuntimeError), hold(left, surely=True):
            remove(left, owner, "a folder")
        remove_unmarked(left)


def remove_unmarked(folder: Path) -> None:
    """Remove a folder in which a kill came before its marker, or right after that was removed; one with anything else stays."""
    with contextlib.suppress(OSError), _opened(folder) as (parent, place):
        names = os.listdir(place)
        if all(name != MARKER and is_marker(name) for name in names):
            for name in names:
                os.unlink(name, dir_fd=place)
            os.rmdir(folder.name, dir_fd=parent)


def check(folder: Path, owner: str, what: str) -> None:
    """See that a folder, and everything in it, may be removed; `what` it should be is for the error.

    Raises:
        FileExistsError: it is a link, a file, a mount point, or it holds one; it is the working or the home folder, or
            holds it; it was not written by this package, or not at this place; or something else is in it.
    """
    with _opened(folder) as (_, place):
        _check(folder, place, owner, what)


@contextlib.contextmanager
def hold(folder: Path, surely: bool = False) -> Iterator[None]:
    """Keep other processes from removing a folder of this package's own while this context is open.

    `surely` makes it an error where that cannot be told, as on a disk without locks. `RuntimeError` where another process
    holds the folder.
    """
    with _opened(folder) as (_, place), contextlib.ExitStack() as locks:
        for name in (MARKER, LOCK):
            try:
                locks.callback(os.close, _locked(place, name))
            except BlockingIOError:
                raise RuntimeError(f"{folder}: another process works in it; wait for that one.") from None
            except OSError:
                if surely and name == MARKER:
                    raise
        yield


def remove(folder: Path, owner: str, what: str) -> None:
    """Remove a folder of this package's own that this process holds, after `check`; its links go, what they lead to stays."""
    with _opened(folder) as (parent, place):
        files = _check(folder, place, owner, what)
        foreign = _sweep(place, "", files, delete=True) or sorted(set(os.listdir(place)) - {MARKER})
        if foreign:
            raise _refused(folder, _named(foreign, what))
        # Last, so that what a kill leaves of the folder is removed another time.
        os.unlink(MARKER, dir_fd=place)
        os.rmdir(folder.name, dir_fd=parent)


def clear(folder: Path, owner: str, what: str, keep: Collection[str] = ()) -> None:
    """Remove what was written into a folder of this package's own, but for the names to keep. What else is in it stays."""
    with _opened(folder) as (_, place):
        _sweep(place, "", _files_of(folder, place, owner, what), delete=True, keep=keep)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[tuple[int, int]]:
    """Descriptors of the folder around a folder, and of the folder itself: whatever gets their names meanwhile."""
    if folder.name in ("", ".."):
        folder = folder.resolve()
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            place = os.open(folder.name or ".", _FOLDER, dir_fd=parent)
        except NotADirectoryError:
            raise _refused(folder, "is a symbolic link" if folder.is_symlink() else "is a file") from None
        try:
            yield parent, place
        finally:
            os.close(place)
    finally:
        os.close(parent)


def _locked(place: int, name: str) -> int:
    """A descriptor of a file in a folder, which has its lock. `BlockingIOError` where another process has the lock."""
    held = os.open(name, os.O_RDWR | _FILE, dir_fd=place)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(held), os.stat(name, dir_fd=place, follow_symlinks=False)):
            return held
        raise FileNotFoundError(name)
    except BaseException:
        os.close(held)
        raise


def _files_of(folder: Path, place: int, owner: str, what: str) -> list[list[str]]:
    """Names of the files that were written into a folder, from its marker, each in parts."""
    content = None
    with contextlib.suppress(OSError):
        descriptor = os.open(MARKER, os.O_RDONLY | _FILE, dir_fd=place)
        with open(descriptor, "rb") as file:
            info = os.fstat(descriptor)
            if stat.S_ISREG(info.st_mode) and info.st_size <= _MOST_BYTES:
                content = marker_content(file.read(_MOST_BYTES))
    if content is None:
        raise _refused(folder, f"has content but is not {what} of this release (no {MARKER} in it says so)")
    if content.get("id") != owner:
        raise _refused(folder, f"is not {what} that was written here: it was moved, copied or made for something else")
    return [str(name).split("/") for name in content["files"]]


def _check(folder: Path, place: int, owner: str, what: str) -> list[list[str]]:
    info = os.fstat(place)
    starts: tuple[tuple[str, Callable[[], str]], ...] = (
        ("the working directory", os.getcwd),
        ("the home folder", lambda: os.path.expanduser("~")),
        ("the home folder", lambda: pwd.getpwuid(os.getuid()).pw_dir),
    )
    for name, start in starts:
        with contextlib.suppress(FileNotFoundError, KeyError):
            path = Path(start()).resolve()
            for each in (path, *path.parents):
                if os.path.samestat(os.stat(each), info):
                    raise _refused(folder, f"{'is' if each == path else 'holds'} {name}")
    real = os.path.realpath(folder)
    if any(mount == real or mount.startswith(real + "/") for mount in _mounts()):
        raise _refused(folder, "is a mount point, or holds one")
    files = _files_of(folder, place, owner, what)
    foreign = _sweep(place, "", files, delete=False)
    if foreign:
        raise _refused(folder, _named(foreign, what))
    return files


def _mounts() -> Iterator[str]:
    """Mount points, also those of folders of the same disk."""
    with contextlib.suppress(OSError):
        for line in _MOUNTS.read_bytes().splitlines():
            # Spaces and the like are written as octal numbers.
            yield os.fsdecode(line.split()[4].decode("unicode_escape").encode("latin-1"))


def _sweep(place: int, within: str, files: list[list[str]], delete: bool, keep: Collection[str] = ()) -> list[str]:
    """Names of what is in a folder and was not written there; the rest is removed, but for the marker."""
    foreign = []
    with os.scandir(place) as entries:
        content = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    for name, info in sorted(content):
        path = within + name
        if path in keep:
            continue
        if stat.S_ISDIR(info.st_mode):
            inner = -1
            if info.st_dev == os.fstat(place).st_dev and _is_listed(path, files, folder=True):
                inner = os.open(name, _FOLDER, dir_fd=place)
            if inner < 0 or not os.path.samestat(os.fstat(inner), info):
                foreign.append(f"{path}/")
                continue
            try:
                foreign += (below := _sweep(inner, f"{path}/", files, delete))
            finally:
                os.close(inner)
            if delete and not below:
                os.rmdir(name, dir_fd=place)
        elif not within and is_marker(name):
            if delete and name != MARKER:
                os.unlink(name, dir_fd=place)
        elif (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)) and _is_listed(path, files):
            if delete:
                os.unlink(name, dir_fd=place)
        else:
            foreign.append(path)
    return foreign


def _is_listed(path: str, files: list[list[str]], folder: bool = False) -> bool:
    """True for a file that was written, or for a folder that such a file may be in."""
    parts = path.split("/")
    for pattern in files:
        if "**" in pattern:
            length = pattern.index("**")
            # Those above `**` must fit; a folder may also be above it.
            if all(fnmatchcase(p, q) for p, q in zip(parts, pattern[:length], strict=False)):
                if folder or len(parts) > length:
                    return True
        elif len(parts) < len(pattern) if folder else len(parts) == len(pattern):
            if all(fnmatchcase(p, q) for p, q in zip(parts, pattern, strict=False)):
                return True
    return False


def _named(foreign: list[str], what: str) -> str:
    shown = ", ".join(repr(name) for name in foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
    return f"holds what was not written with {what}: {shown}"


def _refused(folder: Path, why: str) -> FileExistsError:
    return FileExistsError(f"{folder} {why}. It is left alone: move or delete it by hand, or give another output.")


def lock(folder: Path, taken: str) -> IO[str]:
    """Make a folder, where there is none, and lock it until the returned file is closed or the process ends.

    `RuntimeError`, which says what `taken` says, where another process holds it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # Whatever has that name is not written to, and a link is not followed.
            file = open(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
        except FileNotFoundError:
            continue  # Whoever had it has just removed the folder.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
                return file
        except BlockingIOError:
            file.close()
            raise RuntimeError(taken) from None
        except FileNotFoundError:
            pass
        # The lock of a folder that is gone, or that was recreated, holds nothing.
        file.close()


@contextlib.contextmanager
def held(folder: Path, taken: str) -> Iterator[None]:
    """Hold the lock of a folder, made where there is none, which goes afterwards if nothing else is in it; see `lock`."""
    file = lock(folder, taken)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if not os.fstat(file.fileno()).st_size:  # else somebody's file of that name
                (folder / LOCK).unlink()
            folder.rmdir()
        file.close()
