"""`restore` and `verify`: a checkpoint into a model, whatever processes wrote it."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.checkpoint.parts import DENSE, ROWS, Base, Damaged, Stored, folder_of, read_manifest, steps_in
from keras_dlrm.checkpoint.state import Piece, State, state_of, value_of
from keras_dlrm.files.marker import check_marker
from keras_dlrm.sharding import everyone
from keras_dlrm.support.differences import difference, shown

# zlib.error is of a stream that a bit was changed in.
_DAMAGE = (Damaged, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def restore(model: Any, directory: str | Path, step: int | None = None) -> dict[str, Any] | None:
    """Load a checkpoint of `save`. Training continues as if it had never stopped.

    Where a plan shards the model's tables all processes call it; each reads the rows that it needs, however they were sharded
    when they were saved. A model that is not sharded gets whole tables.

    Args:
        model: Of the same layers and columns, compiled with the same kinds of optimizers, and built. Its learning rate becomes that
            of the checkpoint, which may have been lowered in training.
        directory: Folder of the checkpoints.
        step: Which one; the last by default.

    Returns:
        `{"step": …, "extra": …}`, or `None` if there is no checkpoint.

    Raises:
        FileNotFoundError: there is none of `step`.
        ValueError: what is there are no checkpoints; the checkpoint is of another model or other optimizers, or damaged. The
            model is not changed then.
    """
    return read(state_of(model), Path(directory), step)


def read(state: State, directory: Path, step: int | None = None) -> dict[str, Any] | None:
    """Load a checkpoint into a state, as `restore` does into a model."""
    checked, failure = None, None
    try:
        checked = _checked(state, directory, step)
    except Exception as error:  # the others wait for this one's word, whatever it is
        failure = error
    if state.shared:
        _agree(directory, None if checked is None else checked[0]["step"], failure)
    if failure is not None:
        raise failure
    if checked is None:
        return None
    manifest, arrays, needed = checked
    for name, variable in state.dense.items():
        variable.assign(arrays[name].astype(value_of(variable).dtype))
    base = _base(directory, manifest)
    for piece, part in needed:
        for start, rows in _rows(Stored(directory, manifest["step"], base, part), part, piece):
            piece.write(start, rows)
    return {"step": manifest["step"], "extra": manifest["extra"]}


def verify(directory: str | Path, step: int | None = None) -> list[int]:
    """Read everything that checkpoints hold, and compare it with their checksums. Needs no model.

    Args:
        directory: Folder of the checkpoints, or one `step_…` in it.
        step: Which one; all by default.

    Returns:
        The steps that were read.

    Raises:
        FileNotFoundError: there is no checkpoint, or none of `step`.
        ValueError: a file is not as it was written; the message names it.

    Example:

    >>> model = kd.models.DLRM(kd.Schema(categorical=[kd.Categorical("C1", 10), kd.Categorical("C2", 5)]), 4, top_mlp=[4, 1])
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = kd.checkpoint.save(model, folder, step=3)
    >>> kd.checkpoint.verify(folder)
    [3]
    """
    directory = Path(directory)
    if step is None and directory.parent != directory and folder_of(directory.parent, _number(directory)) == directory:
        directory, step = directory.parent, _number(directory)
    steps = steps_in(directory)
    if not steps or (step is not None and step not in steps):
        raise FileNotFoundError(f"verify: {directory} has no checkpoint{'' if step is None else f' of step {step}'}.")
    chosen = steps if step is None else [step]
    for each in chosen:
        folder = folder_of(directory, each)
        check_marker(folder)
        manifest = read_manifest(folder)
        try:
            base = _base(directory, manifest)
            _dense(folder, manifest)
            for part in manifest["parts"]:
                stored = Stored(directory, each, base, part)
                for start in range(0, part["shape"][0], ROWS):
                    stored.read(start, min(start + ROWS, part["shape"][0]))
        except _DAMAGE as error:
            raise ValueError(f"verify: {folder} is damaged ({error}).") from error
    return chosen


def _number(folder: Path) -> int:
    digits = folder.name.removeprefix("step_")
    return int(digits) if digits.isdecimal() else -1


def _base(directory: Path, manifest: dict[str, Any]) -> Base | None:
    """The checkpoint that this one has changes of."""
    step = manifest.get("base")
    if step is None:
        return None
    folder = folder_of(directory, step)
    try:
        base = Base(step, folder, read_manifest(folder))
    except ValueError as error:
        raise Damaged(str(error)) from error
    if manifest.get("base_checksum", base.checksum) != base.checksum:
        raise Damaged(f"{folder} is not the checkpoint that this one has changes of")
    return base


def _dense(folder: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays that every process has, by name."""
    path = folder / DENSE
    data = path.read_bytes()
    if manifest.get("dense_checksum", "") not in ("", hashlib.sha256(data).hexdigest()):
        raise Damaged(f"{path} does not match its checksum")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as members:
            return {name: members[name] for name in members.files}
    except (ValueError, *_DAMAGE) as error:
        raise Damaged(f"{path}: {error}") from error


def _agree(directory: Path, step: int | None, failure: Exception | None) -> None:
    """Raise in all processes where one of them cannot read, or finds another step."""
    every = everyone.values([step, None if failure is None else str(failure)])
    if failure is not None:
        return
    for rank, (_, message) in enumerate(every):
        if message is not None:
            raise ValueError(f"restore: process {rank} cannot read, and no process has changed its model: {message}")
    if any(other != step for other, _ in every):
        raise ValueError(
            f"restore: processes find different checkpoints in {directory}, steps {[other for other, _ in every]}; it must be a "
            "folder that all of them see."
        )


def _checked(
    state: State, directory: Path, step: int | None
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[tuple[Piece, dict[str, Any]]]] | None:
    """A checkpoint's manifest, its dense arrays, and which parts belong in which pieces, all read once."""
    steps = steps_in(directory)
    if step is None and not steps:
        if directory.exists() and (not directory.is_dir() or any(directory.glob("step_*"))):
            raise ValueError(f"restore: {directory} is not a folder of checkpoints: nothing in it has a manifest.")
        return None
    if step is not None and step not in steps:
        raise FileNotFoundError(f"restore: {directory} has no checkpoint of step {step}; there are {steps}.")
    folder = folder_of(directory, steps[-1] if step is None else step)
    check_marker(folder)
    manifest = read_manifest(folder)
    stored: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for part in manifest["parts"]:
        stored.setdefault((part["kind"], part["table"]), []).append(part)
    differing = None if manifest.get("identity") is None else difference(manifest["identity"], state.identity)
    if differing is not None:
        place, saved, own = differing
        detail = f"{place} is {shown(saved)} there, {shown(own)} in the model"
        fix = "Build and compile the model as the one that was saved."
        raise ValueError(f"restore: {folder} is of another model or optimizer: {detail}. {fix}")
    needed = [(piece, part) for piece in state.pieces for part in stored.get((piece.kind, piece.shard.table), [])]
    try:
        arrays = _dense(folder, manifest)
        _check(folder, stored, state, {name: tuple(array.shape) for name, array in arrays.items()}, manifest["dense"])
        base = _base(directory, manifest)
        # Everything is read once before anything is written: what is damaged is seen by then.
        for piece, part in needed:
            for _ in _rows(Stored(directory, manifest["step"], base, part), part, piece):
                pass
    except _DAMAGE as error:
        fix = f"Without that folder, the last step before it, if any, is restored. ({error})"
        raise ValueError(f"restore: {folder} is damaged, and the model is as it was. {fix}") from error
    return manifest, arrays, needed


def _check(
    folder: Path, stored: dict[tuple[str, str], list[dict[str, Any]]], state: State,
    shapes: dict[str, tuple[int, ...]], paths: dict[str, str],
) -> None:  # fmt: skip
    """Raise if anything does not fit, before anything is written."""
    wanted, dense = state.pieces, state.dense
    what = f"restore: {folder} is of another model or optimizer"
    needed = {(piece.kind, piece.shard.table) for piece in wanted}
    tables = {table for kind, table in needed if kind == "tables"}
    for kind, table in stored:
        # This process may have no part of it.
        if kind == "tables" and table not in tables and not state.shared:
            raise ValueError(f"{what}: it has a table {table!r}; the model has {sorted(tables)}.")
        if table in tables and (kind, table) not in needed:
            own_kinds = sorted(kind for kind, name in needed if name == table)
            raise ValueError(f"{what}: of table {table!r} it has {kind}, the model has {own_kinds}.")
    for piece in wanted:
        parts = stored.get((piece.kind, piece.shard.table))
        if parts is None:
            kinds = sorted(kind for kind, table in stored if table == piece.shard.table)
            raise ValueError(f"{what}: of table {piece.shard.table!r} it has {kinds or 'nothing'}, the model has {piece.kind}.")
        rows, columns = max(p["rows"][1] for p in parts), max(p["columns"][1] for p in parts)
        stored_shape = (rows, columns)[: len(parts[0]["shape"])]
        shape = piece.tables.shape_of(piece.shard.table)[: len(piece.shape)]
        if stored_shape != shape:
            part = "" if piece.kind == "tables" else f"{piece.kind} of "
            raise ValueError(f"{what}: {part}table {piece.shard.table!r} has shape {stored_shape} there, {shape} in the model.")
    for name in {*shapes, *dense}:
        saved_shape, own_shape = shapes.get(name), tuple(dense[name].shape) if name in dense else None
        if saved_shape != own_shape:
            path = paths.get(name) or dense[name].path
            raise ValueError(f"{what}: {name} ({path}) has shape {saved_shape} there, {own_shape} in the model.")


def _rows(stored: Stored, part: dict[str, Any], piece: Piece) -> Iterator[tuple[int, np.ndarray]]:
    """The intersection of a stored part and a piece: rows of the piece in blocks, each with its first row's number."""
    shard = piece.shard
    (low, high), (left, right) = part["rows"], part["columns"]
    start, stop = max(low, shard.start), min(high, shard.stop)
    first, last = max(left, shard.first), min(right, shard.last)
    if start >= stop or first >= last:
        return
    whole = len(piece.shape) == 1 or (first, last) == (shard.first, shard.last)
    # Chunk by chunk as they are on the disk.
    edges = sorted({start, stop, *range(low + -(-(start - low) // ROWS) * ROWS, stop, ROWS)})
    for a, b in zip(edges, edges[1:], strict=False):
        rows = stored.read(a - low, b - low)
        if len(piece.shape) > 1:
            rows = rows[:, first - left : last - left]
            if not whole:
                around = piece.read(a - shard.start, b - shard.start).copy()
                around[:, first - shard.first : last - shard.first] = rows
                rows = around
        yield a - shard.start, np.ascontiguousarray(rows, dtype=np.float32)
