"""Atomic writing of files and folders: write aside, flush, rename."""

import contextlib
import errno
import os
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_dlrm.files.ownership import check, hold, identity, new_folder, remove, remove_left


@contextlib.contextmanager
def workspace(output: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden folder alongside an output, for this process alone, that is removed at the end.

    What killed processes left of the same output is removed, too.

    Example:

    >>> import tempfile
    >>> with workspace(Path(tempfile.mkdtemp()) / "log") as folder:
    ...     folder.name.startswith(".writing-"), folder.is_dir()
    (True, True)
    >>> folder.exists()
    False
    """
    output = Path(output)
    owner = identity("workspace", output)
    folder, held = new_folder(output.parent, owner)
    try:
        yield folder
    finally:
        # A pipe or the like that somebody has put there stays.
        with contextlib.suppress(OSError):
            remove(folder, owner, "a workspace")
        os.close(held)


def clean(output: Path) -> None:
    """Remove what killed processes left of an output that is not written again."""
    remove_left(output.parent, identity("workspace", output))


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a file to, which takes its place, flushed to the disk, when the block ends without an error.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "scores.txt"
    >>> with whole(path) as written:
    ...     _ = written.write_text("0.5")
    ...     path.exists()
    False
    >>> path.read_text()
    '0.5'
    """
    path = Path(path)
    with workspace(path) as folder:
        yield folder / path.name
        publish(folder / path.name, path)


def write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file, a text as UTF-8, so that a kill or a power failure leaves the old content or all of the new one.

    A symbolic link to a file stays, and the file is replaced. `OSError` where the file cannot be written, or is none.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "plan.json"
    >>> write(path, "{}")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('{}', 1)
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file; give the path of a file.")
    with whole(path) as written:
        written.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def publish(written: Path, path: Path) -> None:
    """Flush a complete file, or a folder's list of files, and give it its name, which is on the disk when this returns."""
    sync(written)
    os.replace(written, path)
    sync(path.parent)


def check_writable(folder: Path) -> None:
    """Make a folder where there is none; `OSError` where files cannot be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror}); give another folder.") from error


def is_full(error: BaseException | None) -> bool:
    """True where an error says that the disk, or one's quota of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def full_disk(output: Path, remedy: str = "make room and run again") -> Iterator[None]:
    """Turn the error of a full disk into one that names the output, and what to do."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        why = f"{output}: not written, the disk is full ({os.strerror(error.errno or 0)}); {remedy}"
        raise OSError(error.errno, why) from error


def sync(path: Path) -> None:
    """Flush a file, or the list of a folder's files, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_file(path: Path, overwrite: bool) -> None:
    """`FileExistsError` where a file may not be put at a place: there is one, or a folder, a link, a device."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            raise FileExistsError(f"{path} is a folder; give the name of a file.")
        if not stat.S_ISREG(mode):
            kind = "symbolic link" if stat.S_ISLNK(mode) else "device, pipe or socket"
            raise FileExistsError(f"{path} is a {kind}, which is not replaced; give the name of a file.")
        if not overwrite:
            raise FileExistsError(f"{path} exists; give another output, or overwrite=True (--overwrite).")


def replace_folder(written: Path, output: Path, owner: str, what: str) -> None:
    """Give a complete folder its name, in place of an earlier one, which is removed.

    `owner` and `what` are of the earlier one: what its marker has to say, and what it should be, for the error.

    `FileExistsError` where what is there is not removed (see `ownership.check`), `RuntimeError` where another process
    holds it.
    """
    if not output.exists() or not any(output.iterdir()):
        return publish(written, output)
    with hold(output):
        check(output, owner, what)
        old = output.parent / f".writing-{uuid.uuid4().hex[:12]}"
        os.rename(output, old)
        try:
            check(old, owner, what)  # with what was put there meanwhile
            publish(written, output)
        except BaseException:
            os.rename(old, output)
            raise
        remove(old, owner, what)


def recover(output: Path, owner: str, what: str) -> None:
    """Bring back what a killed `replace_folder` had renamed, or remove it where the new folder is in its place."""
    for old in output.parent.glob(".writing-*"):
        with contextlib.suppress(OSError, RuntimeError), hold(old, surely=True):
            if output.exists():
                remove(old, owner, what)
            else:
                check(old, owner, what)
                os.rename(old, output)


def is_png(start: bytes) -> bool:
    """Whether a file that begins so is a picture in the format PNG."""
    return start.startswith(b"\x89PNG\r\n\x1a\n")


def check_replaced(kind: str, path: Path, example: str, is_one: Callable[[bytes], bool]) -> None:
    """See that a model file may be written: there is none, or one of the same kind, by its beginning.

    `kind` is the export or the option, and `example` a name that the file could have in a folder, for the errors.

    `FileExistsError` where there is another file, a link or a device, `IsADirectoryError` where there is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{kind}: {path} is a folder; give a file, such as {path / example}.")
    check_file(path, overwrite=True)
    if path.exists():
        with open(path, "rb") as file:
            if not is_one(file.read(32)):
                raise FileExistsError(f"{kind}: {path} is a file of another kind, which is not replaced; give another path.")
