"""Deltas of published versions: folders `<number>.delta` with the rows that changed, and the versions that they belong to."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.files.checksums import CHECKSUM, Done, read_json, sealed, unsealed
from keras_dlrm.files.inventory import MANIFEST, check_contents, check_sizes, files_below

SUFFIX = ".delta"
FILE = "delta.json"
FORMAT = "keras_dlrm delta"
VERSION = 1
WEIGHTS = "weights.npz"
# Questions to the model, and the answers that it gave when the delta was written.
REQUESTS = "requests.json"
#: The way out where a delta cannot be made or applied.
FULL = "write a full version (kd.export.savedmodel)"


def is_delta(path: Path) -> bool:
    """Whether a path is called as a delta is.

    Example:

    >>> is_delta(Path("served/3.delta")), is_delta(Path("served/3"))
    (True, False)
    """
    return path.suffix == SUFFIX and path.stem.isascii() and path.stem.isdecimal()


def rows_file(table: int) -> str:
    """File with the changed rows of a table, ascending: int64 (k,)."""
    return f"table_{table}_rows"


def array_file(table: int, name: str) -> str:
    """File with the stored bytes of an array of a table, such as `"codes"`, for the changed rows: (k, bytes of a row)."""
    return f"table_{table}_{name}"


class Delta:
    """A delta that was read and compared with its checksums.

    Args:
        path: Its folder.
        done: Called with the bytes of each part that was read, from several threads.

    Attributes:
        manifest: What `delta.json` says: `base` (number and `state` of what it changes), `tables` (of each `rows`, `changed`, and
            bytes of a row of the `arrays`, by name), `files`.
        state: Checksum of the model that it makes of its base.

    Raises:
        FileNotFoundError: there is no delta there.
        ValueError: it is damaged or cut short; the message names the file.
    """

    def __init__(self, path: Path, done: Done = lambda size: None) -> None:
        self.path, self.manifest = path, _manifest(path)
        self.state: str = sealed(self.manifest)[CHECKSUM]
        self.places = check_sizes(path, self.manifest.get("files"), path / FILE)
        for name in files_below(path):
            if name not in self.places and name != FILE:
                raise ValueError(f"{path / name} is not listed in {FILE}; remove it, or write the folder again.")
        check_contents(self.places, self.manifest["files"], done)

    @property
    def base(self) -> str:
        """State of the model that it changes."""
        return str(self.manifest["base"]["state"])

    @property
    def tables(self) -> list[Mapping[str, Any]]:
        """Entry of each table."""
        return list(self.manifest["tables"])

    def rows(self, table: int) -> np.ndarray:
        """Changed rows of a table, ascending: int64 (k,)."""
        return self._mapped(rows_file(table), np.int64, 1).reshape(-1)

    def stored(self, table: int, name: str) -> np.ndarray:
        """Stored bytes of an array of a table for the changed rows: uint8 (k, bytes of a row)."""
        return self._mapped(array_file(table, name), np.uint8, self.tables[table]["arrays"][name])

    def weights(self) -> dict[str, np.ndarray]:
        """All weights but the tables, whole, by their name in the SavedModel's variables."""
        with np.load(self.path / WEIGHTS) as saved:
            return {name: saved[name] for name in saved.files}

    def _mapped(self, name: str, dtype: Any, columns: int) -> np.ndarray:
        if not (self.path / name).stat().st_size:
            return np.zeros((0, columns), dtype)
        return np.memmap(self.path / name, dtype, "r").reshape(-1, columns)


def _manifest(path: Path) -> dict[str, Any]:
    if not (path / FILE).is_file():
        raise FileNotFoundError(f"{path / FILE} does not exist; give a delta that kd.export.delta wrote.")
    content = unsealed(path / FILE, read_json(path / FILE))
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        said = f"format={content.get('format')!r}, version={content.get('version')!r}"
        raise ValueError(f"{path / FILE} says {said}; this release reads format={FORMAT!r}, version={VERSION}. Write it again.")
    return content


def version_manifest(path: Path) -> dict[str, Any]:
    """Manifest of a version without a look at its other files; `FileNotFoundError` or `ValueError` where there is none."""
    if not (path / MANIFEST).is_file():
        raise FileNotFoundError(f"{path / MANIFEST} does not exist; give a version that kd.export.savedmodel wrote, or a delta.")
    return unsealed(path / MANIFEST, read_json(path / MANIFEST))


def state_of(path: Path) -> str:
    """Checksum of the model that a version or a delta stands for: a version made of deltas has that of the last one."""
    if is_delta(path):
        return str(sealed(_manifest(path))[CHECKSUM])
    return state_in(version_manifest(path))


def state_in(manifest: Mapping[str, Any]) -> str:
    """Checksum of the model of a version, as its manifest tells it."""
    return str(manifest.get("state") or sealed(manifest)[CHECKSUM])


def chain(path: Path, loaded: Container[str | None] = ()) -> list[Path]:
    """A version, and the deltas that make the model of `path` of it, in order; `path` alone if it is a version.

    All are in one folder. With `loaded`, states of models that are there already, only what comes after the last one on the way.

    Raises:
        FileNotFoundError: the base of a delta is not in the folder.
        ValueError: the base in the folder is another one, or a file is damaged.
    """
    places = [path]
    while is_delta(places[0]):
        delta = places[0]
        base = base_of(delta)
        if base["state"] in loaded:
            return places
        number = int(base["number"])
        if number >= int(delta.stem):
            raise ValueError(f"{delta / FILE} is damaged: its base is version {number}; {FULL}.")
        bases = [p for p in (path.with_name(str(number)), path.with_name(f"{number}{SUFFIX}")) if p.is_dir()]
        if not bases:
            raise FileNotFoundError(f"{delta} changes version {number}, which is not in {path.parent}; {FULL}.")
        same = [p for p in bases if state_of(p) == base["state"]]
        if not same:
            raise ValueError(f"{delta} is of another base: {bases[0]} is not the version that it was written for; {FULL}.")
        places.insert(0, same[0])
    return places


def base_of(delta: Path) -> dict[str, Any]:
    """Number and state of the version that a delta changes."""
    return _manifest(delta)["base"]  # type: ignore[no-any-return]


def changed(deltas: Sequence[Delta], table: int, name: str, start: int, stored: np.ndarray) -> np.ndarray:
    """Rows `start` … of an array of a version's table → those after its deltas, in order; both are uint8 (n, bytes of a row)."""
    for delta in deltas:
        rows = delta.rows(table)
        first, last = np.searchsorted(rows, [start, start + len(stored)])
        if last > first:
            stored = np.array(stored)
            stored[rows[first:last] - start] = delta.stored(table, name)[first:last]
    return stored
