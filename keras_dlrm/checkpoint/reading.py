"""Reading a checkpoint into a model, whatever processes wrote it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.checkpoint.parts import Damaged, Stored
from keras_dlrm.checkpoint.state import Piece, State, state_of, value_of
from keras_dlrm.checkpoint.store import ROWS, folder_of, read_manifest, steps_in

# zlib.error is of a stream that a bit was changed in.
_DAMAGE = (Damaged, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def restore(model: Any, directory: str | Path, step: int | None = None) -> dict[str, Any] | None:
    """Load a checkpoint of `save`. Training goes on as if it had never ended.

    Where a plan shards the model's tables all processes call it; each reads the rows that it needs, however they were sharded
    when they were saved. A model that is not sharded gets whole tables.

    Args:
        model: Compiled with the same optimizers, and built.
        directory: Folder of the checkpoints.
        step: Which one; the last by default.

    Returns:
        `{"step": …, "extra": …}`, or `None` if there is no checkpoint.

    Raises:
        FileNotFoundError: there is none of `step`.
        ValueError: what is there are no checkpoints; the checkpoint is of another model or other optimizers, or damaged. The
            model is not changed then.
    """
    directory = Path(directory)
    return read(state_of(model), directory, step)


def read(state: State, directory: Path, step: int | None = None) -> dict[str, Any] | None:
    """As `restore`, into a state."""
    found, failure = None, None
    try:
        found = _checked(state, directory, step)
    except Exception as error:  # the others wait for this one's word, whatever it is
        failure = error
    if state.shared:
        _agree(directory, None if found is None else found[0]["step"], failure)
    if failure is not None:
        raise failure
    if found is None:
        return None
    manifest, arrays, needed = found
    for name, variable in state.dense.items():
        variable.assign(arrays[name].astype(value_of(variable).dtype))
    for piece, part in needed:
        for start, rows in _rows(Stored(directory, manifest["step"], manifest.get("base"), part), part, piece):
            piece.write(start, rows)
    return {"step": manifest["step"], "extra": manifest["extra"]}


def _agree(directory: Path, step: int | None, failure: Exception | None) -> None:
    """Raise in all processes where one of them cannot read, or finds another step."""
    from keras_dlrm.sharding import everyone

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
            raise ValueError(f"restore: {directory} is no folder of checkpoints: nothing in it has a manifest.")
        return None
    if step is not None and step not in steps:
        raise FileNotFoundError(f"restore: {directory} has no checkpoint of step {step}; there are {steps}.")
    folder = folder_of(directory, steps[-1] if step is None else step)
    manifest = read_manifest(folder)
    stored: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for part in manifest["parts"]:
        stored.setdefault((part["kind"], part["table"]), []).append(part)
    step, base = manifest["step"], manifest.get("base")
    needed = [(piece, part) for piece in state.pieces for part in stored.get((piece.kind, piece.shard.table), [])]
    try:
        # NumPy leaves a file open that it finds damaged.
        with (folder / "dense.npz").open("rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = {name: members[name] for name in members.files}
        _check(folder, stored, state, {name: tuple(array.shape) for name, array in arrays.items()}, manifest["dense"])
        # Everything is read once before anything is written: what is damaged is seen by then.
        for piece, part in needed:
            for _ in _rows(Stored(directory, manifest["step"], base, part), part, piece):
                pass
    except _DAMAGE as error:
        raise ValueError(
            f"restore: {folder} is damaged, and the model is as it was. Without that folder, the last step before it is restored. "
            f"({error})"
        ) from error
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
            mine = sorted(kind for kind, name in needed if name == table)
            raise ValueError(f"{what}: of table {table!r} it has {kind}, the model has {mine}.")
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
        there, here = shapes.get(name), tuple(dense[name].shape) if name in dense else None
        if there != here:
            path = paths.get(name) or dense[name].path
            raise ValueError(f"{what}: {name} ({path}) has shape {there} there, {here} in the model.")


def _rows(stored: Stored, part: dict[str, Any], piece: Piece) -> Iterator[tuple[int, np.ndarray]]:
    """What a stored part and a piece have in common: rows of the piece, each with the first one's number."""
    shard = piece.shard
    (low, high), (left, right) = part["rows"], part["columns"]
    start, stop = max(low, shard.start), min(high, shard.stop)
    first, last = max(left, shard.first), min(right, shard.last)
    if start >= stop or first >= last:
        return
    whole = len(piece.shape) == 1 or (first, last) == (shard.first, shard.last)
    # Chunk by chunk as they lie on the disk.
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
