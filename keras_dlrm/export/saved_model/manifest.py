"""Number and manifest of a published version: `assets.extra/manifest.json`, with a checksum of every file."""

import datetime
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_dlrm.files.checksums import content_digest, sealed
from keras_dlrm.files.deltas import SUFFIX
from keras_dlrm.files.inventory import FORMAT, MANIFEST, VERSION, check_version, files_below, inventory


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a version whose other files are all there: files, checksums, time, versions and `content`."""
    write_sealed(path, MANIFEST, {"format": FORMAT, "version": VERSION, **content})


def write_sealed(path: Path, name: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder to a file of a name in it; see `write`."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    packages = {each: importlib.metadata.version(each) for each in ("keras", "tensorflow")}
    files = inventory(path, [file for file in files_below(path) if file != name.as_posix()])
    made = {"created": created, "git_revision": git_revision(), "packages": packages}
    text = json.dumps(sealed({**content, **made, "files": files}), indent=2, ensure_ascii=False)
    (path / name).write_text(text, encoding="utf-8")


def structure_of(model: Any) -> str:
    """Checksum of all that a SavedModel's graph is made of, but for its values: a delta can only change these.

    A model's name and the seed of its first weights are no part of it.
    """
    described = keras.saving.serialize_keras_object(model)
    config = {key: value for key, value in described["config"].items() if key not in ("name", "seed")}
    return content_digest({"class": described["registered_name"] or described["class_name"], "config": config})


def verify(path: str | Path) -> dict[str, Any]:
    """Check a published version against its manifest: every file is there, whole, and no other is.

    Args:
        path: Folder of the version, as `savedmodel` returns it.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: no manifest there.
        ValueError: a file is missing, damaged or unknown, the manifest among them; the message names it.

    Example:

    >>> verify("nowhere/1")
    Traceback (most recent call last):
    FileNotFoundError: nowhere/1/assets.extra/manifest.json does not exist; give a version that kd.export.savedmodel wrote.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise FileNotFoundError(f"{path / MANIFEST} does not exist; give a version that kd.export.savedmodel wrote.")
    manifest = check_version(path)
    if manifest is None:
        raise ValueError(f"{path / MANIFEST} is damaged or another program's: it does not say format={FORMAT!r}; export again.")
    return manifest


def git_revision() -> str | None:
    """The commit of the working folder, with `+` behind it where files have changed since; `None` outside of git."""
    try:
        described = subprocess.run(["git", "describe", "--always", "--abbrev=40", "--dirty=+"], capture_output=True, text=True)
    except OSError:
        return None
    return described.stdout.strip() or None


def next_version(directory: Path) -> int:
    """One more than the highest version or delta of a folder; other names, and numbers beyond int64, do not count."""
    names = (p.name.removesuffix(SUFFIX) for p in directory.iterdir())
    numbers = (int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 20)
    return max((number for number in numbers if number < 2**63 - 1), default=0) + 1


def publish(written: Path, final: Path, any_version: bool) -> Path:
    """Rename a complete version, on the same file system, into place; its final path.

    Where its number was taken meanwhile, it gets the next one, or is a `FileExistsError` unless `any_version`.
    """
    while True:
        try:
            os.rename(written, final)
            return final
        except OSError as error:
            if not final.exists():
                raise
            if not any_version:
                text = f"{final} appeared while this version was written; give another version, or none."
                raise FileExistsError(f"savedmodel: {text}") from error
            final = final.with_name(f"{next_version(final.parent)}{final.suffix}")
