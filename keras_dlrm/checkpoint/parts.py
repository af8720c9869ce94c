"""A piece of a table, or of a slot, in a checkpoint: whole, or as what changed since another checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.checkpoint.state import Piece
from keras_dlrm.checkpoint.store import ROWS, create, file_of, folder_of, open_array

_IN_FLIGHT = 8  # chunks that are being written while the next is read


class Base:
    """A whole checkpoint that changes are written against.

    Args:
        step: Its step.
        folder: Its folder.
        manifest: What it says of itself.
    """

    def __init__(self, step: int, folder: Path, manifest: dict[str, Any]) -> None:
        self.step, self.folder = step, folder
        self._parts = {_key(part): part for part in manifest["parts"]}

    def array_of(self, part: dict[str, Any]) -> Any:
        """Its rows of the same part; `None` where it was split otherwise."""
        found = self._parts.get(_key(part))
        return None if found is None else open_array(self.folder / found["file"])


def _key(part: dict[str, Any]) -> tuple[Any, ...]:
    return (part["kind"], part["table"], *part["rows"], *part["columns"], *part["shape"])


def write_piece(folder: Path, piece: Piece, base: Base | None) -> dict[str, Any]:
    """Write a piece.

    Args:
        folder: The checkpoint's.
        piece: The piece.
        base: Where given, and split alike, only rows that are not as there are written.

    Returns:
        What the manifest says of it.
    """
    shard = piece.shard
    name = file_of(piece.kind, shard.table, f"{shard.start}_{shard.stop}_{shard.first}_{shard.last}")
    part: dict[str, Any] = {
        "kind": piece.kind, "table": shard.table, "file": name, "rows": [shard.start, shard.stop],
        "columns": [shard.first, shard.last], "shape": list(piece.shape),
    }  # fmt: skip
    before = None if base is None else base.array_of(part)
    if before is not None:
        return {**part, "changes": _write_changes(folder / name, piece, before)}
    store = create(folder / name, piece.shape)
    running: list[Any] = []
    for start in range(0, shard.rows, ROWS):
        stop = min(start + ROWS, shard.rows)
        running.append(store[start:stop].write(np.ascontiguousarray(piece.read(start, stop))))
        if len(running) > _IN_FLIGHT:
            running.pop(0).result()
    for write in running:
        write.result()
    return part


def _write_changes(path: Path, piece: Piece, before: Any) -> int:
    """Rows that are not as before, and which they are; how many."""
    ids, rows = [], []
    for start in range(0, piece.shard.rows, ROWS):
        stop = min(start + ROWS, piece.shard.rows)
        now, then = np.ascontiguousarray(piece.read(start, stop)), before[start:stop].read().result()
        # Bits, so that a NaN is as it was.
        other = (now.view(np.int32) != np.ascontiguousarray(then).view(np.int32)).reshape(len(now), -1).any(1)
        ids.append(np.flatnonzero(other) + start)
        rows.append(now[other])
    changed, values = np.concatenate(ids).astype(np.int64), np.concatenate(rows)
    if len(changed):
        create(path / "ids", changed.shape, "int64").write(changed).result()
        create(path / "changes", values.shape).write(values).result()
    return len(changed)


class Damaged(ValueError):
    """An array is not as it was written."""


class Stored:
    """A part of a checkpoint, to be read by rows.

    Args:
        directory: Folder of all checkpoints.
        step: Which one.
        base: Step of the one that it has changes of, if it has.
        part: What the manifest says of the part.

    Raises:
        Damaged: it is not all there, here or when it is read.
    """

    def __init__(self, directory: Path, step: int, base: int | None, part: dict[str, Any]) -> None:
        path = folder_of(directory, step) / part["file"]
        self._ids = self._changes = None
        if "changes" not in part:
            self._rows = _opened(path)
            return
        self._rows = _opened(folder_of(directory, -1 if base is None else base) / part["file"])
        if part["changes"]:
            self._ids, self._changes = (_read(_opened(path / name)) for name in ("ids", "changes"))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start … stop - 1` of the part."""
        rows = _read(self._rows[start:stop])
        if self._ids is not None:
            low, high = np.searchsorted(self._ids, (start, stop))
            rows = np.array(rows)
            rows[self._ids[low:high] - start] = self._changes[low:high]  # type: ignore[index]
        return rows


def _opened(path: Path) -> Any:
    try:
        return open_array(path)
    except ValueError as error:  # all that tensorstore raises
        raise Damaged(str(error).split(" [", 1)[0]) from error


def _read(array: Any) -> np.ndarray:
    try:
        found: np.ndarray = array.read().result()
    except ValueError as error:
        raise Damaged(str(error).split(" [", 1)[0]) from error
    return found
