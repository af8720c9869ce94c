"""Inventory of a folder: sizes and checksums of its files; check of a published version."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_dlrm.files.checksums import AGAIN, CHECKSUM, Done, digest, read_json, unsealed
from keras_dlrm.files.marker import is_marker
from keras_dlrm.files.paths import inside

Entries = dict[str, dict[str, Any]]
MANIFEST = Path("assets.extra") / "manifest.json"
FORMAT = "keras_dlrm published model"
VERSION = 2  # 1 had no checksum of the manifest itself


def inventory(folder: Path, names: Iterable[str]) -> Entries:
    """Size and SHA-256 of files of a folder, by name."""
    names = list(names)
    # Hashing gives up the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        digests = executor.map(lambda name: digest(folder / name), names)
        return {n: {"bytes": (folder / n).stat().st_size, "sha256": sha} for n, sha in zip(names, digests, strict=True)}


def check_sizes(folder: Path, entries: Any, source: Path) -> dict[str, Path]:
    """Check that the files of an inventory are there, inside their folder, and as long as they were: their places by name.

    `ValueError` where one is missing, of another size, or not inside the folder, or `source`, the file that holds the
    inventory, has none.
    """
    if not isinstance(entries, Mapping) or not all(
        isinstance(e, Mapping) and type(e.get("bytes")) is int and isinstance(e.get("sha256"), str) for e in entries.values()
    ):
        raise ValueError(f"{source} is damaged: it does not list its files with sizes and checksums; {AGAIN}.")
    places = {name: inside(folder, name, source) for name in entries}
    for name, path in places.items():
        if not path.is_file():
            raise ValueError(f"{path} is missing, though {source.name} lists it; copy the folder again as a whole.")
        size, written = path.stat().st_size, entries[name]["bytes"]
        if size != written:
            raise ValueError(f"{path} is damaged or cut short ({size} bytes, {written} were written); {AGAIN}.")
    return places


def check_contents(places: Mapping[str, Path], entries: Mapping[str, Any], done: Done = lambda size: None) -> None:
    """Compare the checksums of files with those of an inventory; `ValueError` names one that differs.

    `done` is called with the bytes of each part that was read, from several threads.
    """
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        for name, sha256 in zip(places, executor.map(lambda path: digest(path, done), places.values()), strict=True):
            if sha256 != entries[name]["sha256"]:
                raise ValueError(f"{places[name]} is damaged: its SHA-256 is not the one that was written; {AGAIN}.")


def files_below(folder: Path) -> list[str]:
    """Names of all files below a folder but its marker, relative to it, in order."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in names if not is_marker(name))


def check_version(path: Path, done: Done = lambda size: None) -> dict[str, Any] | None:
    """Compare all files of a version with its manifest, which is returned; `None` where there is none of this package.

    `done` is called with the bytes of each part that was read. `ValueError` names a file that is missing, damaged or unknown.
    """
    source = path / MANIFEST
    if not source.is_file():
        return None
    content = read_json(source)
    # One of ours whose first line is damaged still has its checksum.
    if content.get("format") != FORMAT and CHECKSUM not in content:
        return None
    if content.get("version") != 1:
        content = unsealed(source, content)
    entries: Any = content.get("files")
    places = check_sizes(path, entries, source)
    for name in files_below(path):
        if name not in entries and path / name != source:
            raise ValueError(f"{path / name} is not listed in {source.name}; remove it, or write the folder again.")
    check_contents(places, entries, done)
    return content
