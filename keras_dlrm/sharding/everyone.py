"""Small messages between processes outside of training steps."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_dlrm.files.checksums import content_digest
from keras_dlrm.sharding import collectives
from keras_dlrm.support.differences import difference, shown


def arrays(mine: np.ndarray) -> np.ndarray:
    """An array of every process, (processes, …); all give one of the same shape and dtype."""
    data = np.ascontiguousarray(mine).tobytes()
    words = np.frombuffer(data + bytes(-len(data) % 4), np.int32)
    every = collectives.all_words(words)
    return np.stack([np.frombuffer(w.tobytes()[: len(data)], mine.dtype).reshape(mine.shape) for w in every])


def values(mine: Any) -> list[Any]:
    """A value of every process, such as JSON can write."""
    text = json.dumps(mine).encode()
    lengths = arrays(np.array(len(text), np.int64))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    return [json.loads(row[:n].tobytes()) for row, n in zip(arrays(padded), lengths, strict=True)]


def first_that_differs(mine: Iterable[tuple[str, np.ndarray]]) -> str | None:
    """The name of the first array that is not the same in all processes, if there is one; all give as many."""
    sums = [(name, zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)) for name, array in mine]
    alike = np.ptp(arrays(np.array([number for _, number in sums], np.int64)), axis=0) == 0
    return next((name for (name, _), same in zip(sums, alike, strict=True) if not same), None)


def require_alike(who: str, mine: Mapping[str, Any]) -> None:
    """`ValueError` in all processes where one of them was told something else; the message begins with `who` and says what."""
    if len(set(values(content_digest(mine)))) == 1:
        return
    every = values(mine)
    for rank, other in enumerate(every):
        found = difference(every[0], other)
        if found is not None:
            place, first, here = found
            raise ValueError(
                f"{who}: processes of one run must be told the same, but {place} is {shown(first)} in process 0 and "
                f"{shown(here)} in process {rank}."
            )


def wait() -> None:
    """Until every process is here."""
    arrays(np.zeros(1, np.int32))
