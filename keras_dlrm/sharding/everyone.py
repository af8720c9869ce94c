"""Small messages between processes outside of training steps."""

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_dlrm.files.checksums import content_digest
from keras_dlrm.sharding import collectives
from keras_dlrm.support.differences import difference, shown


def arrays(array: np.ndarray) -> np.ndarray:
    """An array of every process, (processes, …); all give one of the same shape and dtype."""
    data = np.ascontiguousarray(array).tobytes()
    words = np.frombuffer(data + bytes(-len(data) % 4), np.int32)
    every = collectives.all_words(words)
    return np.stack([np.frombuffer(w.tobytes()[: len(data)], array.dtype).reshape(array.shape) for w in every])


def values(value: Any) -> list[Any]:
    """A value of every process, such as JSON can write."""
    text = json.dumps(value).encode()
    lengths = arrays(np.array(len(text), np.int64))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    return [json.loads(row[:n].tobytes()) for row, n in zip(arrays(padded), lengths, strict=True)]


def first_that_differs(arrays_by_name: Iterable[tuple[str, np.ndarray]]) -> str | None:
    """The name of the first array that is not the same in all processes, if there is one; all give as many."""
    sums = [(name, zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)) for name, array in arrays_by_name]
    alike = np.ptp(arrays(np.array([number for _, number in sums], np.int64)), axis=0) == 0
    return next((name for (name, _), same in zip(sums, alike, strict=True) if not same), None)


def require_alike(who: str, settings: Mapping[str, Any]) -> None:
    """`ValueError` in all processes where one of them was told something else; the message begins with `who` and says what."""
    if len(set(values(content_digest(settings)))) == 1:
        return
    every = values(settings)
    for rank, other in enumerate(every):
        differing = difference(every[0], other)
        if differing is not None:
            place, first, own = differing
            raise ValueError(
                f"{who}: processes of one run must be told the same, but {place} is {shown(first)} in process 0 and "
                f"{shown(own)} in process {rank}."
            )


def wait() -> None:
    """Until every process is here."""
    arrays(np.zeros(1, np.int32))
