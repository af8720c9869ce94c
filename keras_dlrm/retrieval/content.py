"""`Content`, what an index holds; on disk `index.json`, which lists the other files with their checksums, one for each array."""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import polars as pl

from keras_dlrm.files.checksums import Done, digest, read_sealed, sealed
from keras_dlrm.files.durable import full_disk, publish, workspace, write
from keras_dlrm.files.inventory import check_contents, check_sizes
from keras_dlrm.files.paths import utf8_path
from keras_dlrm.retrieval.lists import Lists
from keras_dlrm.retrieval.search import VECTORS
from keras_dlrm.schema.schema import Schema

FILE = "index.json"
FORMAT = "keras_dlrm index"
VERSION = 1
_IDS = "ids"
_OURS = r"(codes|scale|residual|columns_dense|columns_sparse|centers|members|ids)\.[0-9a-f]{12}\.(npy|parquet)"


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """N items of an index, as they are saved.

    Args:
        ids: Int64 or String (N,), all different.
        vectors: The vectors as `search.stored` has them.
        dtype: One of `DTYPES`.
        columns: Packed batch of the item's columns.
        schema: Schema of the model.
        item_columns: Names of the item's columns.
        temperature: What products are divided by.
        fingerprint: That of the model.
        lists: Groups of near items, or `None`.
        probes: Groups that a query looks at.
    """

    ids: pl.Series
    vectors: dict[str, np.ndarray]
    dtype: str
    columns: dict[str, np.ndarray]
    schema: Schema
    item_columns: list[str]
    temperature: float
    fingerprint: str
    lists: Lists | None = None
    probes: int = 0


def save(content: Content, path: str | os.PathLike[str]) -> None:
    """See `Index.save`."""
    folder = Path(path)
    _make(folder)
    earlier = _files_of(folder)
    arrays = {**content.vectors, **{f"columns_{key}": array for key, array in content.columns.items()}}
    if content.lists is not None:
        arrays |= vars(content.lists)
    with full_disk(folder):
        files = {name: _written(folder, name, array) for name, array in arrays.items()}
        files[_IDS] = _written(folder, _IDS, content.ids)
        described: dict[str, Any] = {
            "format": FORMAT, "version": VERSION, "items": len(content.ids), "dtype": content.dtype,
            "temperature": content.temperature, "fingerprint": content.fingerprint, "probes": content.probes,
            "item_columns": content.item_columns, "schema": content.schema.to_dict(),
            "arrays": {name: file for name, (file, _) in files.items()}, "files": dict(files.values()),
        }  # fmt: skip
        write(folder / FILE, json.dumps(sealed(described), indent=2, ensure_ascii=False))
    for name in earlier - set(described["files"]):
        (folder / name).unlink(missing_ok=True)


def check_place(folder: Path) -> None:
    """Error where `save` would not write an index, before one is made; folders are as they were."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    _make(folder)
    for each in missing:
        each.rmdir()
    if not missing:
        _files_of(folder)


def _make(folder: Path) -> None:
    """Make the folder, if it is not there; an error that names it where that cannot be."""
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file; give a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"{folder}: not made ({os.strerror(error.errno or 0)}); give a folder in one that can be written to."
        raise OSError(error.errno, why) from error


def load(path: str | os.PathLike[str]) -> Content:
    """See `Index.load`."""
    folder = Path(path)
    described, places = check(folder)
    arrays = {name: places[file] for name, file in described["arrays"].items()}
    ids = pl.read_parquet(utf8_path(arrays.pop(_IDS)), glob=False).to_series()
    read = {name: _read(place) for name, place in arrays.items()}
    lists = Lists(read["centers"], read["members"]) if "centers" in read else None
    return Content(
        ids, {name: read[name] for name in VECTORS if name in read}, described["dtype"],
        {key: read[f"columns_{key}"] for key in ("dense", "sparse") if f"columns_{key}" in read},
        Schema.from_dict(described["schema"]), described["item_columns"], described["temperature"], described["fingerprint"],
        lists, described["probes"],
    )  # fmt: skip


def check(folder: Path, done: Done = lambda size: None) -> tuple[dict[str, Any], dict[str, Path]]:
    """Compare the files of an index with their checksums: what `index.json` says, and the files by name.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another version.
    """
    source = folder / FILE
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist; give the folder of an index that Index.save wrote.")
    described = read_sealed(source)
    if described.get("format") != FORMAT or described.get("version") != VERSION:
        kind, version = described.get("format"), described.get("version")
        raise ValueError(f"{source}: format {kind!r}, version {version!r}; this release reads {FORMAT!r}, version {VERSION}.")
    places = check_sizes(folder, described["files"], source)
    check_contents(places, described["files"], done)
    return described, places


def _written(folder: Path, name: str, values: Any) -> tuple[str, dict[str, Any]]:
    """Name, size and checksum of the file of an array. The name has a part of the checksum: no earlier file is written over."""
    ending = "parquet" if isinstance(values, pl.Series) else "npy"
    with workspace(folder / name) as aside:
        written = aside / f"{name}.{ending}"
        if isinstance(values, pl.Series):
            values.to_frame().write_parquet(utf8_path(written))
        else:
            # NumPy's files know no bfloat16.
            np.save(written, values.view(np.uint16) if values.dtype == ml_dtypes.bfloat16 else values)
        checksum = digest(written)
        final = f"{name}.{checksum[:12]}.{ending}"
        size = written.stat().st_size
        publish(written, folder / final)
    return final, {"bytes": size, "sha256": checksum}


def _read(path: Path) -> np.ndarray:
    array = np.load(path)
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array


def _files_of(folder: Path) -> set[str]:
    """Files of the index that a folder has; `FileExistsError` where it has something else."""
    if not (folder / FILE).exists():
        # What a killed save left has such names.
        others = [p.name for p in folder.iterdir() if not p.name.startswith(".writing-") and not _is_ours(p.name)]
        if others:
            raise FileExistsError(f"{folder} is not an index: it has {sorted(others)[0]!r}; give a new or empty folder.")
        return {p.name for p in folder.iterdir() if _is_ours(p.name)}
    try:
        content = json.loads((folder / FILE).read_bytes())
        if content["format"] == FORMAT:
            return {p.name for p in folder.iterdir() if _is_ours(p.name)}
    except (ValueError, KeyError, TypeError):
        pass
    raise FileExistsError(f"{folder / FILE} is not an index of this package, or damaged; give another folder.")


def _is_ours(name: str) -> bool:
    return re.fullmatch(_OURS, name) is not None
