"""Program that writes the files of a delta, or of the version that deltas make: it reads variables through TensorFlow."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorflow as tf

from keras_dlrm.export.elsewhere import arguments
from keras_dlrm.export.saved_model.savedmodel import part_rows
from keras_dlrm.export.saved_model.writing import DISK, not_written
from keras_dlrm.export.tables.taped_tables import VALUE, Part, parts, replace_rows, table_key
from keras_dlrm.files.deltas import FULL, REQUESTS, WEIGHTS, Delta, array_file, changed, rows_file
from keras_dlrm.files.paths import plain_path

_TABLE = re.compile(rf"tables/(\d+)/(\w+)/{re.escape(VALUE)}")
# The names of all variables, which TensorFlow keeps beside them.
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


class _Version:
    """Variables of a version, with what its deltas changed in the tables."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.path = Path(job["version"])
        self._prefix = str(plain_path(self.path, "*?[]{}\\") / "variables" / "variables")
        self.reader = tf.train.load_checkpoint(self._prefix)
        self.shapes, self.dtypes = self.reader.get_variable_to_shape_map(), self.reader.get_variable_to_dtype_map()
        self._deltas = [Delta(Path(path)) for path in job["deltas"]]

    @property
    def tables(self) -> dict[int, list[str]]:
        """Names of the arrays of each table."""
        tables: dict[int, list[str]] = {}
        for key in sorted(self.shapes):
            if match := _TABLE.fullmatch(key):
                tables.setdefault(int(match[1]), []).append(match[2])
        return tables

    @property
    def others(self) -> list[str]:
        """Variables that are in no table."""
        return sorted(key for key in self.shapes if not _TABLE.fullmatch(key) and key != _GRAPH)

    def rows(self, table: int, name: str, start: int, length: int) -> np.ndarray:
        """Rows of an array of a table, as they are stored (length, columns)."""
        key = table_key(table, name)
        (rows, columns), dtype = self.shapes[key], self.dtypes[key]
        spec = f"{rows} {columns} {start},{length}:-"
        (part,) = tf.raw_ops.RestoreV2(prefix=self._prefix, tensor_names=[key], shape_and_slices=[spec], dtypes=[dtype])
        array = part.numpy()
        return changed(self._deltas, table, name, start, _bytes(array)).view(array.dtype)

    def weights(self, path: Path) -> dict[str, Any]:
        """Weights of a delta's folder as tensors by variable: all of this version's that are in no table, of the same shapes."""
        with np.load(path / WEIGHTS) as saved:
            weights = {f"{name}/{VALUE}": saved[name] for name in saved.files}
        for key in sorted({*weights, *self.others}):
            new = weights[key].shape if key in weights else None
            known = tuple(self.shapes[key]) if key in self.shapes else None
            # A number of rows that a graph leaves open may change.
            if new is None or known is None or len(new) != len(known) or new[1:] != known[1:]:
                sys.exit(f"not written: variable {key} is {known} in {self.path}, {new} in the model; {FULL}.")
        return {key: tf.constant(array.view(self.dtypes[key].as_numpy_dtype)) for key, array in weights.items()}


def write(job: Mapping[str, Any], work: Path, path: Path, rows: IO[bytes]) -> None:
    """Write the changed rows of tables, which come as float32 `rows`, into a delta's folder, which has the rest.

    The job has the `version`, the `deltas` since, and `tables` as of `parts`. Into the folder `work` go `tables.json`, the entries
    of the manifest, and `changes.npz`, what the requests of the delta look up, by variable.
    """
    version = _Version(job)
    asked = json.loads((path / REQUESTS).read_text(encoding="utf-8"))["requests"]
    wanted = [np.array(next(iter(asked.values()))["rows"][i], np.int64) for i in range(len(job["tables"]))]
    entries: list[dict[str, Any]] = [{"rows": count, "changed": 0, "arrays": {}} for count, *_ in job["tables"]]
    looked_up: dict[str, list[np.ndarray]] = {}
    for table, _, start, arrays in parts(rows, job["tables"]):
        length = len(next(iter(arrays.values())))
        differs = np.zeros(length, bool)
        for name, array in arrays.items():
            differs |= (_bytes(array) != _bytes(version.rows(table, name, start, length))).any(axis=1)
        rows_here = wanted[table][(wanted[table] >= start) & (wanted[table] < start + length)] - start
        for name, array in arrays.items():
            entries[table]["arrays"][name] = _bytes(array).shape[1]
            looked_up.setdefault(table_key(table, name), []).append(array[rows_here])
            _append(path / array_file(table, name), array[differs])
        _append(path / rows_file(table), np.flatnonzero(differs).astype(np.int64) + start)
        entries[table]["changed"] += int(differs.sum())
    (work / "tables.json").write_text(json.dumps(entries), encoding="utf-8")
    changes: dict[str, Any] = {key: np.concatenate(arrays) for key, arrays in looked_up.items()}
    np.savez(work / "changes.npz", **changes, **{key: value.numpy() for key, value in version.weights(path).items()})


def apply(job: Mapping[str, Any], path: Path) -> None:
    """Write the variables of a version after its deltas into a folder that has all the rest of it."""
    version = _Version(job)
    weights = version.weights(Path(job["deltas"][-1]))
    replace_rows(path, _changed_parts(version), {_GRAPH: tf.constant(version.reader.get_tensor(_GRAPH)), **weights})


def _changed_parts(version: _Version) -> Iterator[Part]:
    for table, names in version.tables.items():
        shapes = [version.shapes[table_key(table, name)] for name in names]
        count, part = shapes[0][0], part_rows(shapes[0][0], sum(columns for _, columns in shapes))
        for start in range(0, count, part):
            length = min(part, count - start)
            yield table, count, start, {name: version.rows(table, name, start, length) for name in names}


def _bytes(array: np.ndarray) -> np.ndarray:
    """Stored bytes of rows: uint8 (n, bytes of a row)."""
    return np.ascontiguousarray(array).view(np.uint8)


def _append(path: Path, array: np.ndarray) -> None:
    with open(path, "ab") as file:
        file.write(_bytes(array).tobytes())


def main(task: str, work: str, path: str) -> None:
    """Do the job of a folder."""
    job = json.loads((Path(work) / "job.json").read_text(encoding="utf-8"))
    folder = Path(work).absolute()
    # TensorFlow takes brackets, stars and the like in a path for patterns.
    os.chdir(Path(path).parent)
    place = Path(Path(path).name)
    try:
        if task == "write":
            write(job, folder, place, sys.stdin.buffer)
        else:
            apply(job, place)
    except (OSError, *DISK) as error:
        sys.exit(not_written(error))


if __name__ == "__main__":
    main(*arguments())
