"""What is said when the disk is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_dlrm.data.jobs.staging import staging_directory

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def full_disk(output: Path) -> Iterator[None]:
    """Where the disk fills up inside, an error that names `output` and says how to go on."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise OSError(
            error.errno,
            f"{output}: not written, the disk is full ({os.strerror(error.errno or 0)}); make room and run again, it goes "
            f"on where it was (or delete {staging_directory(output)} to give it up)",
        ) from error


def is_full(error: BaseException | None) -> bool:
    """Whether the disk, or what one may use of it, is full."""
    return isinstance(error, OSError) and error.errno in FULL
