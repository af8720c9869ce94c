"""Part of a table or slot in a checkpoint, complete or as the changed rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.checkpoint.state import Piece
from keras_dlrm.checkpoint.store import ROWS, create, file_of, folder_of, metadata, open_array
from keras_dlrm.files.checksums import content_digest, digest

_IN_FLIGHT = 8  # chunks that are being written while the next is read


class Base:
    """A whole checkpoint that changes are written against."""

    def __init__(self, step: int, folder: Path, manifest: dict[str, Any]) -> None:
        self.step, self.folder = step, folder
        self.checksum = content_digest(manifest)
        self._parts = {_key(part): part for part in manifest["parts"]}

    def array_of(self, part: dict[str, Any]) -> Any:
        """Its rows of the same part, or `Damaged`; `None` where it was split otherwise."""
        own = self._parts.get(_key(part))
        return None if own is None else _opened(self.folder, own, "", tuple(part["shape"]))


def _key(part: dict[str, Any]) -> tuple[Any, ...]:
    return (part["kind"], part["table"], *part["rows"], *part["columns"], *part["shape"])


def write_piece(folder: Path, piece: Piece, base: Base | None) -> dict[str, Any]:
    """Write a piece into a checkpoint's folder: all of it, or where a base is split alike, rows that differ from there.

    Returns:
        The piece's entry of the manifest.
    """
    shard = piece.shard
    name = file_of(piece.kind, shard.table, f"{shard.start}_{shard.stop}_{shard.first}_{shard.last}")
    part: dict[str, Any] = {
        "kind": piece.kind, "table": shard.table, "file": name, "rows": [shard.start, shard.stop],
        "columns": [shard.first, shard.last], "shape": list(piece.shape),
    }  # fmt: skip
    changed = None
    with contextlib.suppress(Damaged, OSError):  # of a base that is damaged nothing can be a change
        changed = None if base is None else _changed(piece, base, part)
    if changed is not None:
        return {**part, "changes": len(changed[0]), "checksums": _write_changes(folder / name, *changed)}
    store = create(folder / name, piece.shape)
    running: list[Any] = []
    for start in range(0, shard.rows, ROWS):
        stop = min(start + ROWS, shard.rows)
        running.append(store[start:stop].write(np.ascontiguousarray(piece.read(start, stop))))
        if len(running) > _IN_FLIGHT:
            running.pop(0).result()
    for write in running:
        write.result()
    return {**part, "checksums": _checksums(folder / name, ("",))}


def _checksums(path: Path, arrays: Iterable[str]) -> dict[str, str]:
    return {name: digest(metadata(path / name)) for name in arrays}


def check_written(folder: Path, part: dict[str, Any]) -> None:
    """`OSError` where a part that a process wrote is not in the folder that this process sees."""
    for name, checksum in part["checksums"].items():
        path = metadata(folder / part["file"] / name)
        if not path.is_file() or digest(path) != checksum:
            raise OSError(
                f"{path} is not there, which another process wrote: the folder of checkpoints must be one that all processes "
                "share, not one on each machine's own disk."
            )


def _changed(piece: Piece, base: Base, part: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Numbers of the rows that differ from another checkpoint, and these rows; `None` where it was split otherwise."""
    before = base.array_of(part)
    if before is None:
        return None
    ids, rows = [], []
    for start in range(0, piece.shard.rows, ROWS):
        stop = min(start + ROWS, piece.shard.rows)
        now, then = np.ascontiguousarray(piece.read(start, stop)), _read(before[start:stop], base.folder)
        # Bits, so that a NaN is as it was.
        other = (now.view(np.int32) != np.ascontiguousarray(then).view(np.int32)).reshape(len(now), -1).any(1)
        ids.append(np.flatnonzero(other) + start)
        rows.append(now[other])
    return np.concatenate(ids).astype(np.int64), np.concatenate(rows)


def _write_changes(path: Path, ids: np.ndarray, rows: np.ndarray) -> dict[str, str]:
    if not len(ids):
        return {}
    create(path / "ids", ids.shape, "int64").write(ids).result()
    create(path / "changes", rows.shape).write(rows).result()
    return _checksums(path, ("ids", "changes"))


class Damaged(ValueError):
    """An array is not as it was written."""


class Stored:
    """A part of a step's checkpoint, to be read by rows; `base` is the checkpoint that it has changes of, if it has.

    Raises:
        Damaged: it is not all there, here or when it is read.
    """

    def __init__(self, directory: Path, step: int, base: Base | None, part: dict[str, Any]) -> None:
        folder, shape = folder_of(directory, step), tuple(part["shape"])
        self._where = folder / part["file"]
        self._ids = self._changes = None
        if "changes" not in part:
            self._rows = _opened(folder, part, "", shape)
            return
        self._rows = None if base is None else base.array_of(part)
        if base is None or self._rows is None:
            raise Damaged(f"{self._where}: it has changes of another checkpoint, which is not there")
        if part["changes"]:
            n = part["changes"]
            self._ids = _read(_opened(folder, part, "ids", (n,)), self._where)
            self._changes = _read(_opened(folder, part, "changes", (n, *shape[1:])), self._where)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start … stop - 1` of the part."""
        rows = _read(self._rows[start:stop], self._where)
        if self._ids is not None:
            low, high = np.searchsorted(self._ids, (start, stop))
            rows = np.array(rows)
            rows[self._ids[low:high] - start] = self._changes[low:high]  # type: ignore[index]
        return rows


def _opened(folder: Path, part: dict[str, Any], name: str, shape: tuple[int, ...]) -> Any:
    """An array of a part: its rows, or with a name its changes."""
    path = folder / part["file"] / name
    if "checksums" in part and digest(metadata(path)) != part["checksums"].get(name):
        raise Damaged(f"{metadata(path)} does not match its checksum")
    try:
        array = open_array(path)
    except ValueError as error:  # all that tensorstore raises
        raise Damaged(f"{path}: {_said(error)}") from error
    if tuple(array.shape) != shape:
        raise Damaged(f"{path} has shape {tuple(array.shape)}; the manifest says {shape}")
    return array


def _read(array: Any, path: Path) -> np.ndarray:
    try:
        found: np.ndarray = array.read().result()
    except ValueError as error:
        raise Damaged(f"{path}: {_said(error)}") from error
    return found


def _said(error: ValueError) -> str:
    return str(error).split(" [", 1)[0]
