"""A checkpoint of a run on parameter servers: logical tables with their slots, all else, and the step."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.format import open_memmap

from keras_dlrm.data.aside import aside

_NAME = re.compile(r"step-(\d+)")
_KEPT = 2


class Tables(Protocol):
    """Where logical tables are read from and written to; of `ServerTables`."""

    @property
    def slot_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of each slot and its shape behind the rows."""
        ...

    def read(self, name: str, slot: str | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """A table or a slot of its rows in parts."""
        ...

    def write(self, name: str, values: np.ndarray, slot: str | None = None) -> None:
        """Replace it."""
        ...


def save(
    directory: Path,
    step: int,
    shapes: Mapping[str, tuple[int, int]],
    tables: Tables,
    others: Mapping[str, Any],
    losses: Any,
) -> Path:
    """Write `directory/step-N`, complete or not at all; the last two are kept.

    Args:
        directory: Made if it does not exist.
        step: Steps that are applied, N.
        shapes: Table name → (rows, width).
        tables: Whose parts are read one at a time.
        others: All other values, by name.
        losses: Loss of each of the steps.
    """
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"step-{step}"
    path, held = aside(final, Path.mkdir)
    try:
        for i, (name, (rows, width)) in enumerate(shapes.items()):
            arrays = {"rows": (width,), **{f"slot-{slot}": shape for slot, shape in tables.slot_shapes.items()}}
            for key, shape in arrays.items():
                file = open_memmap(path / f"table-{i}-{key}.npy", "w+", np.float32, (rows, *shape))
                for start, values in tables.read(name, None if key == "rows" else key.removeprefix("slot-")):
                    file[start : start + len(values)] = values
                file.flush()
        arrays_of: dict[str, Any] = {f"v{i}": np.asarray(v) for i, v in enumerate(others.values())}
        np.savez(path / "others.npz", **arrays_of)
        np.save(path / "losses.npy", losses)
        state = {"step": step, "tables": shapes, "slots": list(tables.slot_shapes), "others": list(others)}
        (path / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for place in (*path.iterdir(), path):
            _flush(place)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(path, final)
        _flush(directory)
    finally:
        os.close(held)
        shutil.rmtree(path, ignore_errors=True)
    for old in _steps(directory)[:-_KEPT]:
        shutil.rmtree(directory / f"step-{old}", ignore_errors=True)
    return final


def restore(
    directory: Path, shapes: Mapping[str, tuple[int, int]], tables: Tables, others: Mapping[str, Any]
) -> tuple[int, np.ndarray]:
    """Read the last checkpoint, if there is one.

    Args:
        directory: Where `save` wrote it.
        shapes: Table name → (rows, width).
        tables: That are written.
        others: Everything else by name, each with `assign`.

    Returns:
        Steps that are applied, and their losses.

    Raises:
        ValueError: it is of another model or optimizer.
    """
    steps = _steps(directory)
    if not steps:
        return 0, np.zeros(0, np.float32)
    path = directory / f"step-{steps[-1]}"
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    ours = {
        "tables": {n: list(s) for n, s in shapes.items()},
        "slots": list(tables.slot_shapes),
        "others": list(others),
    }
    for key, value in ours.items():
        if state[key] != value:
            raise ValueError(
                f"{path} is of another model or optimizer: its {key} are {state[key]}, here they are {value}."
            )
    for i, name in enumerate(shapes):
        for slot in (None, *tables.slot_shapes):
            key = "rows" if slot is None else f"slot-{slot}"
            tables.write(name, np.load(path / f"table-{i}-{key}.npy", mmap_mode="r"), slot)
    with np.load(path / "others.npz") as saved:
        for i, variable in enumerate(others.values()):
            variable.assign(saved[f"v{i}"])
    return state["step"], np.load(path / "losses.npy")


def _steps(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    found = [_NAME.fullmatch(path.name) for path in directory.iterdir() if (path / "state.json").exists()]
    return sorted(int(match[1]) for match in found if match)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
