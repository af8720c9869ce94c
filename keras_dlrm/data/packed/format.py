"""Format of a processed directory, for its writer and its reader."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.files.checksums import CHECKSUM, Done, read_json, unsealed
from keras_dlrm.files.inventory import check_contents, check_sizes
from keras_dlrm.files.marker import check_marker
from keras_dlrm.schema.packing import ids_dtype
from keras_dlrm.schema.schema import Schema

FORMAT = "keras_dlrm packed click log"
VERSION = 2  # 1 had no checksums
# Bytes of all arrays up to which opening a log reads them once to check them: a second or two, of a log that trains for minutes.
CHECKED_BYTES = 2**30
SPLITS = ("train", "valid", "test")
MANIFEST = "manifest.json"
SCHEMA = "schema.json"
LABEL = "label"
SAMPLE_WEIGHT = "sample_weight"


def array_specs(schema: Schema) -> dict[str, tuple[np.dtype[Any], int | None]]:
    """The arrays of a split: name → (dtype, width); a width of `None` is a one-dimensional array.

    Example:

    >>> array_specs(Schema(dense=["I1", "I2"]))
    {'dense': (dtype('float32'), 2), 'label': (dtype('float32'), None)}
    """
    specs: dict[str, tuple[np.dtype[Any], int | None]] = {}
    for key in schema.input_names:
        dtype = ids_dtype(schema.categorical) if key == "sparse" else np.float32
        specs[key] = (np.dtype(dtype), schema.n_dense if key == "dense" else schema.width)
    specs[LABEL] = (np.dtype(np.float32), None if isinstance(schema.label, str) else len(schema.labels))
    if schema.sample_weight is not None:
        specs[SAMPLE_WEIGHT] = (np.dtype(np.float32), None)
    return specs


def array_header(dtype: np.dtype[Any], width: int | None, rows: int) -> bytes:
    """Header of an array's file. NumPy pads it, so that it is as long for any number of rows."""
    file = io.BytesIO()
    shape = (rows,) if width is None else (rows, width)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def array_size(dtype: np.dtype[Any], width: int | None, rows: int) -> int:
    """Bytes of the file of an array."""
    return len(array_header(dtype, width, rows)) + rows * (width or 1) * dtype.itemsize


def array_path(directory: Path, split: str, name: str) -> Path:
    """Path of array `name` of a split."""
    return directory / split / f"{name}.npy"


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a processed directory; an error where it is none, or one of another version."""
    if not directory.exists():
        raise FileNotFoundError(
            f"{directory}: no such directory; write one with kd.data.tables.preprocess, kd.data.criteo.preprocess or "
            "PlantedClickLog.write."
        )
    if not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; give the processed directory, the one that holds {MANIFEST}.")
    path = directory / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{directory} is not a processed directory: it has no {MANIFEST}. Raw tables go through "
            "kd.data.tables.preprocess first."
        )
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{directory} is not a processed directory: {MANIFEST} does not say format={FORMAT!r}.")
    if manifest.get("version") not in (1, VERSION):
        raise ValueError(
            f"{path}: version {manifest.get('version')!r} of the format; this release reads versions 1 and {VERSION}. Write "
            "the directory again, or use the release that wrote it."
        )
    if manifest["version"] != 1 or CHECKSUM in manifest:
        manifest = unsealed(path, manifest)
    splits = manifest.get("splits")
    if not isinstance(splits, dict) or not all(s in SPLITS and type(n) is int and n >= 0 for s, n in splits.items()):
        raise ValueError(
            f"{path}: 'splits' is {splits!r}; it must give row counts of {SPLITS}. Write the directory again."
        )
    return manifest


def check_files(
    directory: Path, manifest: dict[str, Any], verify: bool | None, done: Done = lambda size: None
) -> dict[str, Path]:
    """Check a processed directory against the inventory in its manifest: see `data.open`.

    `done` is called with the bytes of each part that was read. Returns the listed files by name; none in version 1 of the
    format. `ValueError` where a file is missing, damaged or outside of the directory, or there is nothing to verify it by.
    """
    source = directory / MANIFEST
    check_marker(directory)
    if manifest["version"] == 1:
        if verify:
            raise ValueError(
                f"{source} is of version 1 of the format, which has no checksums; open it without verify=True, or write the "
                "directory again."
            )
        return {}
    entries: Any = manifest.get("files")
    places = check_sizes(directory, entries, source)
    arrays = {name: path for name, path in places.items() if path.suffix == ".npy"}
    if verify or (verify is None and sum(entries[name]["bytes"] for name in arrays) <= CHECKED_BYTES):
        check_contents(places, entries, done)
    elif SCHEMA in places:
        check_contents({SCHEMA: places[SCHEMA]}, entries)
    return places
