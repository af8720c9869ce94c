"""Parts of a checkpoint: tables and slots in files, complete or as the changed rows; reading its manifest."""

import contextlib
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import tensorstore

from keras_dlrm.checkpoint.state import Piece
from keras_dlrm.files.checksums import content_digest, digest, read_sealed
from keras_dlrm.files.paths import inside, plain_path

MANIFEST, DENSE = "manifest.json", "dense.npz"
# Says what an array's chunks hold. They have checksums of their own, which this file asks for.
METADATA = "zarr.json"
VERSION = 2  # 1 had neither checksums nor the model's identity
ROWS = 2**16  # of a chunk
_PART = {"kind", "table", "file", "rows", "columns", "shape"}
_NAME = re.compile(r"step_(\d{10})")
_IN_FLIGHT = 8  # chunks, or a part's changes, that are being written while the next is read
_LONGEST = 180  # letters of a table's name in a file's name, which has 255 at most


def folder_of(directory: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return directory / f"step_{step:010d}"


def steps_in(directory: Path) -> list[int]:
    """Steps of the complete checkpoints, in order."""
    if not directory.is_dir():
        return []
    matches = [_NAME.fullmatch(path.name) for path in directory.iterdir() if (path / MANIFEST).is_file()]
    return sorted(int(match[1]) for match in matches if match)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; `ValueError` where the folder is none, is damaged, or is of a later version."""
    path = folder / MANIFEST
    try:
        manifest = read_sealed(path, required=False)
        version = manifest.get("version")
        if version not in (1, VERSION):
            raise ValueError(f"{folder} has version {version!r}; this package reads 1 and {VERSION}.")
        if version != 1:
            read_sealed(path)  # with a checksum
    except OSError as error:
        raise ValueError(f"{folder} is not a checkpoint: {error}.") from error
    for name, kind in (("step", int), ("extra", dict), ("dense", dict), ("parts", list)):
        if not isinstance(manifest.get(name), kind):
            raise ValueError(f"{path} is damaged: {name} is {manifest.get(name)!r}; copy it again.")
    for part in manifest["parts"]:
        if not isinstance(part, dict) or not _PART <= set(part):
            raise ValueError(f"{path} is damaged: it has a part {part!r}; copy it again.")
        inside(folder, part["file"], path)
    return manifest


def create(path: Path, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """A new array in a folder of its own, to be written by rows."""
    chunk = [min(ROWS, max(shape[0], 1)), *shape[1:]]
    return tensorstore.open({**_spec(path), "metadata": {
        "shape": list(shape), "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        # Chunks beside the metadata: by default each would lie two folders deeper, and small tables are mostly folders then.
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }}, create=True).result()  # fmt: skip


def _spec(path: Path) -> dict[str, Any]:
    # tensorstore takes a backslash for a slash, and would read and write elsewhere.
    plain = plain_path(path.resolve(), "\\")
    return {
        "driver": "zarr3", "kvstore": {"driver": "file", "path": f"{plain}/"},
        # A chunk that is not there is an error, not zeros; so chunks of zeros must be there, too.
        "fill_missing_data_reads": False, "store_data_equal_to_fill_value": True,
    }  # fmt: skip


def bases_of(directory: Path, steps: list[int]) -> set[int]:
    """Steps whose checkpoints those of `steps` are changes of; all, where one is damaged and so does not say."""
    try:
        manifests = [read_manifest(folder_of(directory, step)) for step in steps]
    except ValueError:
        return set(steps_in(directory))
    return {manifest["base"] for manifest in manifests if manifest.get("base") is not None}


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


def write_pieces(folder: Path, pieces: Iterable[Piece], base: Base | None) -> list[dict[str, Any]]:
    """Write each piece, all of it or where a base is split the same way what differs from there; their entries of the manifest."""
    running: list[Any] = []
    try:
        parts = [_write(folder, piece, base, running) for piece in pieces]
    finally:
        for write in running:
            write.exception()  # waits: where one failed, the folder is removed
    for write in running:
        write.result()
    return [
        {**part, "checksums": {name: digest(folder / part["file"] / name / METADATA) for name in arrays}}
        for part, arrays in parts
    ]  # fmt: skip


def _write(folder: Path, piece: Piece, base: Base | None, running: list[Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Begin to write a piece; its entry of the manifest, and the names of its arrays. Some writes are still running then."""
    shard = piece.shard
    table = quote(shard.table, safe="")
    if len(table) > _LONGEST:
        table = f"{table[: _LONGEST - 16]}{hashlib.sha256(shard.table.encode()).hexdigest()[:16]}"
    name = f"{piece.kind}/{table}.{shard.start}_{shard.stop}_{shard.first}_{shard.last}"
    part: dict[str, Any] = {
        "kind": piece.kind, "table": shard.table, "file": name, "rows": [shard.start, shard.stop],
        "columns": [shard.first, shard.last], "shape": list(piece.shape),
    }  # fmt: skip

    def write(place: Any, rows: np.ndarray) -> None:
        running.append(place.write(rows))
        if len(running) > _IN_FLIGHT:
            running[0].result()
            running.pop(0)

    changed = None
    with contextlib.suppress(Damaged, OSError):  # of a base that is damaged nothing can be a change
        changed = None if base is None else _changed(piece, base, part)
    if changed is not None:
        ids, rows = changed
        if not len(ids):
            return {**part, "changes": 0}, ()
        write(create(folder / name / "ids", ids.shape, "int64"), ids)
        write(create(folder / name / "changes", rows.shape), rows)
        return {**part, "changes": len(ids)}, ("ids", "changes")
    store = create(folder / name, piece.shape)
    for start in range(0, shard.rows, ROWS):
        stop = min(start + ROWS, shard.rows)
        write(store[start:stop], np.ascontiguousarray(piece.read(start, stop)))
    return part, ("",)


def check_written(folder: Path, part: dict[str, Any]) -> None:
    """`OSError` where a part that a process wrote is not in the folder that this process sees."""
    for name, checksum in part["checksums"].items():
        path = folder / part["file"] / name / METADATA
        if not path.is_file() or digest(path) != checksum:
            fix = "the folder of checkpoints must be one that all processes share, not one on each machine's own disk."
            raise OSError(f"{path} is not there, which another process wrote: {fix}")


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


class Damaged(ValueError):
    """An array is not as it was written."""


class Stored:
    """A part of a step's checkpoint, to be read by rows; `Damaged` where it is not all there, here or when it is read.

    `base` is the checkpoint that it has changes of, if it has.
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
    if "checksums" in part and digest(path / METADATA) != part["checksums"].get(name):
        raise Damaged(f"{path / METADATA} does not match its checksum")
    try:
        array = tensorstore.open(_spec(path), open=True).result()
    except ValueError as error:  # all that tensorstore raises
        raise Damaged(f"{path}: {_said(error)}") from error
    if tuple(array.shape) != shape:
        raise Damaged(f"{path} has shape {tuple(array.shape)}; the manifest says {shape}")
    return array


def _read(array: Any, path: Path) -> np.ndarray:
    try:
        return array.read().result()  # type: ignore[no-any-return]
    except ValueError as error:
        raise Damaged(f"{path}: {_said(error)}") from error


def _said(error: ValueError) -> str:
    return str(error).split(" [", 1)[0]
