"""What a published version is: `assets.extra/manifest.json`, with the checksum of every file beside it."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path("assets.extra") / "manifest.json"
FORMAT = "keras_dlrm published model"
VERSION = 1


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a version whose other files are all there.

    Args:
        path: Folder of the version.
        content: What the manifest says besides files, checksums, time and versions.
    """
    files = {name: {"bytes": (path / name).stat().st_size, "sha256": _digest(path / name)} for name in _files(path)}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_revision": git_revision(),
        "packages": {name: importlib.metadata.version(name) for name in ("keras", "tensorflow")},
        **content,
        "files": files,
    }
    (path / FILE).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")


def verify(path: str | Path) -> dict[str, Any]:
    """Check a published version against its manifest: every file is there, whole, and no other is.

    Args:
        path: Folder of the version, as `savedmodel` returns it.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: no manifest there.
        ValueError: a file is missing, damaged or unknown; the message names it.

    Example:

    >>> verify("nowhere/1")
    Traceback (most recent call last):
    FileNotFoundError: nowhere/1/assets.extra/manifest.json does not exist; give a version that kd.export.savedmodel wrote.
    """
    path = Path(path)
    if not (path / FILE).is_file():
        raise FileNotFoundError(f"{path / FILE} does not exist; give a version that kd.export.savedmodel wrote.")
    try:
        manifest = json.loads((path / FILE).read_text(encoding="utf-8"))
        files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path / FILE} is damaged ({error}); export again.") from error
    for name, digest in files.items():
        if not (path / name).is_file():
            raise ValueError(f"{path}: {name} is missing; copy the version again as a whole.")
        if _digest(path / name) != digest:
            raise ValueError(f"{path}: {name} is damaged, its SHA-256 is not the manifest's; copy the version again.")
    for name in _files(path):
        if name not in files:
            raise ValueError(f"{path}: {name} is not in the manifest; remove it, or export again.")
    return manifest


def git_revision() -> str | None:
    """The commit of the working folder, with `+` behind it where files have changed since; `None` outside of git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"], capture_output=True, text=True
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def _files(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() and p != path / FILE)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
