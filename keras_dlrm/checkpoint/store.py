"""Storage of checkpoints: folders, and the arrays in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import tensorstore

from keras_dlrm.files.checksums import digest, read_sealed
from keras_dlrm.files.durable import sync
from keras_dlrm.files.paths import inside, plain_path

MANIFEST, DENSE = "manifest.json", "dense.npz"
VERSION = 2  # 1 had neither checksums nor the model's identity
ROWS = 2**16  # of a chunk
_PART = {"kind", "table", "file", "rows", "columns", "shape"}
_NAME = re.compile(r"step_(\d{10})")


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
        raise ValueError(f"{folder} is no checkpoint: {error}.") from error
    for name, kind in (("step", int), ("extra", dict), ("dense", dict), ("parts", list)):
        if not isinstance(manifest.get(name), kind):
            raise ValueError(f"{path} is damaged: {name} is {manifest.get(name)!r}; copy it again.")
    for part in manifest["parts"]:
        if not isinstance(part, dict) or not _PART <= set(part):
            raise ValueError(f"{path} is damaged: it has a part {part!r}; copy it again.")
        inside(folder, part["file"], path)
    return manifest


def file_of(kind: str, table: str, part: str) -> str:
    """The path, within a checkpoint, of a part of a table or of a slot of it."""
    return f"{kind}/{quote(table, safe='')}/{part}"


def create(path: Path, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """A new array in a folder of its own, to be written by rows."""
    chunk = [min(ROWS, max(shape[0], 1)), *shape[1:]]
    return tensorstore.open({**_spec(path), "metadata": {
        "shape": list(shape), "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }}, create=True).result()  # fmt: skip


def open_array(path: Path) -> Any:
    """An array that `create` made, to be read."""
    return tensorstore.open(_spec(path), open=True).result()


def metadata(path: Path) -> Path:
    """The file that says what an array's chunks hold. They have checksums of their own, which this file asks for."""
    return path / "zarr.json"


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


def write_dense(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write the parameters that every process has into one file; its checksum."""
    np.savez(path, **arrays)  # type: ignore[arg-type]
    sync(path)
    return digest(path)
