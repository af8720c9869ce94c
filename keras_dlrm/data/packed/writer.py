"""Writer of a processed directory, batch by batch, atomic."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from keras_dlrm.data.packed import format as layout
from keras_dlrm.files.checksums import CHECKSUM, sealed
from keras_dlrm.files.durable import full_disk, is_full, recover, replace_folder, workspace
from keras_dlrm.files.inventory import files_below, inventory
from keras_dlrm.files.marker import MARKER, marker_content
from keras_dlrm.files.ownership import check, hold, identity, mark, remove
from keras_dlrm.schema.label import allowed_labels
from keras_dlrm.schema.packing import WEIGHTS, stored
from keras_dlrm.schema.schema import Schema

_WHAT = "a processed directory"


class PackedWriter(contextlib.AbstractContextManager["PackedWriter"]):
    """Appends batches to the splits of a processed directory without knowing their number of rows beforehand.

    The files grow in a hidden sibling of `output` which takes its name when the `with` block ends without an error
    and is removed when it ends with one: `output` is complete or absent. What a killed process left is removed by the
    next writer of `output`. Memory stays bounded by one batch.

    Args:
        output: Directory to write.
        schema: Fitted schema of the batches.
        preprocessor: `Preprocessor` to save with the data; by default one that checks ids and copies them.
        overwrite: Whether an existing processed directory may be replaced (when the new one is complete): one that was
            written to this place by this package, and that nobody has put anything else into.

    Raises:
        FileExistsError: `output` exists and is not empty, and `overwrite` is False or does not allow it.
        ValueError: the schema is not fitted.

    Example:

    >>> import tempfile, numpy as np
    >>> from keras_dlrm.schema.schema import Schema
    >>> output = Path(tempfile.mkdtemp()) / "log"
    >>> with PackedWriter(output, Schema(dense=["I1"], label="click")) as writer:
    ...     writer.append("train", {"dense": np.array([[0.5], [1.5]], "float32")}, np.array([0, 1]))
    >>> sorted(p.name for p in output.iterdir())
    ['.keras_dlrm', 'manifest.json', 'preprocessor.json', 'schema.json', 'train']
    """

    def __init__(
        self, output: str | os.PathLike[str], schema: Schema, preprocessor: Any = None, overwrite: bool = False
    ) -> None:
        schema.require_fitted()
        self.output = real_output(output).absolute()
        self.schema = schema
        self.preprocessor = preprocessor
        self.rows: dict[str, int] = {}
        self._overwrite = overwrite
        self._extra: dict[str, Any] = {}
        self._specs = layout.array_specs(schema)
        self._files: dict[tuple[str, str], IO[bytes]] = {}
        check_output(self.output, overwrite)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._workspace = contextlib.ExitStack()
        self.partial = self._workspace.enter_context(workspace(self.output)) / "log"
        self.partial.mkdir()

    def begin(self, split: str) -> None:
        """Make a split exist, with no rows so far. `append` does this by itself."""
        if split not in layout.SPLITS:
            raise ValueError(f"PackedWriter: split {split!r} is unknown; the splits are {layout.SPLITS}.")
        if split in self.rows:
            return
        (self.partial / split).mkdir()
        self.rows[split] = 0
        for name in self._specs:
            file = self._files[split, name] = open(layout.array_path(self.partial, split, name), "wb")
            file.write(layout.array_header(*self._specs[name], 0))

    def append(self, split: str, batch: Mapping[str, Any], label: Any, sample_weight: Any = None) -> None:
        """Append rows to a split, after checking every value.

        Args:
            split: `"train"`, `"valid"` or `"test"`.
            batch: Packed batch of B rows, as `Schema.pack` makes it.
            label: (B,) or (B, 1) of 0 and 1; numbers between where the schema has soft labels. Of T labels (B, T), NaN where one
                is missing.
            sample_weight: (B,) or (B, 1), row weights, where the schema names a column of them.

        Raises:
            KeyError, TypeError, ValueError: the batch, a label or a row weight is not what the schema allows.
        """
        self.begin(split)
        labels = self._labels(label)
        if (sample_weight is None) != (self.schema.sample_weight is None):
            came = "none was" if sample_weight is None else "one was"
            named = f"the schema has sample_weight={self.schema.sample_weight!r}"
            raise ValueError(f"PackedWriter: {named}, and {came} given; they must agree.")
        self.schema.validate(batch)
        arrays = {name: np.asarray(batch[name]) for name in self.schema.input_names}
        for name, array in arrays.items():
            if len(array) != len(labels):
                raise ValueError(f"PackedWriter: {name!r} has {len(array)} rows and the label {len(labels)}; they must agree.")
        columns = labels[:, None] if isinstance(self.schema.label, str) else labels
        for i, name in enumerate(self.schema.labels):
            allowed = allowed_labels(columns[:, i], self.schema.soft_labels, missing=columns.shape[1] > 1)
            self._check(split, "label", name, columns[:, i], *allowed)
        if "sparse" in arrays:
            arrays["sparse"] = stored(self.schema.categorical, arrays["sparse"])
        arrays[layout.LABEL] = labels
        if sample_weight is not None:
            weights = _flat("sample_weight", sample_weight).astype(np.float32)
            if len(weights) != len(labels):
                raise ValueError(f"PackedWriter: {len(weights)} row weights and {len(labels)} labels; they must agree.")
            good = np.isfinite(weights) & (weights >= 0)
            self._check(split, "row weight", str(self.schema.sample_weight), weights, good, WEIGHTS)
            arrays[layout.SAMPLE_WEIGHT] = weights
        for name, array in arrays.items():
            dtype = self._specs[name][0]
            self._files[split, name].write(np.ascontiguousarray(array, dtype=dtype).tobytes())
        self.rows[split] += len(labels)

    def _labels(self, label: Any) -> np.ndarray:
        """Labels (B,), or of several (B, T)."""
        if isinstance(self.schema.label, str):
            return _flat("label", label)
        labels, names = np.asarray(label), self.schema.labels
        if labels.ndim != 2 or labels.shape[1] != len(names):
            raise ValueError(f"PackedWriter: label has shape {labels.shape}; it must be (B, {len(names)}), for {list(names)}.")
        return labels

    def _check(self, split: str, what: str, name: str, values: np.ndarray, good: np.ndarray, allowed: str) -> None:
        if not good.all():
            row = int(np.argmin(good))
            raise ValueError(
                f"PackedWriter: {what} {name!r} is {values[row]} in row {self.rows[split] + row} of {split!r}; it {allowed}."
            )

    def extend(
        self, parts: Mapping[str, Iterable[tuple[Any, ...]]], total: int, progress: Callable[[int, int, str], None] | None
    ) -> None:
        """Append the batches `(batch, label)` of some splits, of `total` rows; `progress(rows_done, total, split)` is told."""
        done = 0
        for split, batches in parts.items():
            self.begin(split)
            for batch, label in batches:
                self.append(split, batch, label)
                done += len(label)
                if progress is not None:
                    progress(done, total, split)

    def adopt(self, split: str, files: Mapping[str, Path], rows: int) -> None:
        """Take finished `.npy` files as a new split: without copying them where the disk has hard links.

        Args:
            split: `"train"`, `"valid"` or `"test"`.
            files: Path of each array's file. Values are not checked.
            rows: How many rows each holds.

        Raises:
            ValueError: the split exists, or a file is not of the schema's width, dtype or `rows`.
        """
        if split in self.rows or split not in layout.SPLITS:
            raise ValueError(f"PackedWriter: split {split!r} exists or is not one of {layout.SPLITS}.")
        (self.partial / split).mkdir()
        for name, (dtype, width) in self._specs.items():
            header = layout.array_header(dtype, width, rows)
            size = layout.array_size(dtype, width, rows)
            with open(files[name], "rb") as file:
                if file.read(len(header)) != header or files[name].stat().st_size != size:
                    raise ValueError(f"PackedWriter: {files[name]} does not hold {rows} rows of {dtype}, {width} wide.")
            target = layout.array_path(self.partial, split, name)
            try:
                os.link(files[name], target)
            except OSError:
                shutil.copyfile(files[name], target)
        self.rows[split] = rows

    def note(self, key: str, value: Any) -> None:
        """Keep a JSON value under `key` in the manifest."""
        if key in ("format", "version", "splits", "files", CHECKSUM):
            raise ValueError(f"PackedWriter: the manifest's {key!r} is written by the writer; choose another key.")
        self._extra[key] = value

    def __exit__(self, kind: Any, error: BaseException | None, trace: object) -> None:
        try:
            with full_disk(self.output):
                if kind is None:
                    self._complete()
                elif error is not None and is_full(error):
                    raise error
        finally:
            for file in self._files.values():
                # On a full disk what is still in its buffer cannot be written.
                with contextlib.suppress(OSError):
                    file.close()
            self._workspace.close()

    def _complete(self) -> None:
        for (split, name), file in self._files.items():
            file.seek(0)
            file.write(layout.array_header(*self._specs[name], self.rows[split]))
            file.close()
        self.schema.save(self.partial / layout.SCHEMA)
        preprocessor = self.preprocessor
        if preprocessor is None:
            from keras_dlrm.data.preprocessor.preprocessor import Preprocessor

            preprocessor = Preprocessor.identity(self.schema)
        preprocessor.save(self.partial)
        files = inventory(self.partial, files_below(self.partial))
        manifest = {"format": layout.FORMAT, "version": layout.VERSION, "splits": self.rows, **self._extra, "files": files}
        (self.partial / layout.MANIFEST).write_text(json.dumps(sealed(manifest), indent=2), encoding="utf-8")
        place_log(self.partial, self.output, self._overwrite)


def _flat(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"PackedWriter: {name} has shape {array.shape}; it must be (B,) or (B, 1).")
    return array


def real_output(output: str | os.PathLike[str]) -> Path:
    """The target of a link: a folder written alongside it can take its name. An error where it has content."""
    path = Path(output)
    if not path.is_symlink():
        return path
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"{path} is a symbolic link to a folder with content; give {path.resolve()}, or another output.")
    return path.resolve()


def check_output(output: Path, overwrite: bool) -> None:
    """Raise `FileExistsError` where `output` may not be written: see `PackedWriter`."""
    recover(output, _owner(output), _WHAT)
    if not output.exists():
        return
    if not output.is_dir():
        raise FileExistsError(f"{output} is a file; give the name of a directory that does not exist yet.")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{output} exists and is not empty; give another output, or overwrite=True to replace it.")
    check(output, _owner(output), _WHAT)


def remove_log(output: Path) -> None:
    """Remove a processed directory of this package's own; `FileExistsError` where it is something else."""
    with hold(output):
        remove(output, _owner(output), _WHAT)


def place_log(written: Path, output: Path, overwrite: bool) -> None:
    """Give a complete processed directory its name, in place of an earlier one."""
    check_output(output, overwrite)
    os.close(mark(written, _owner(output), files_below(written)))
    replace_folder(written, output, _owner(output), _WHAT)


def list_file(directory: Path, name: str) -> None:
    """Have the marker of a processed directory name one more file in it, which then goes when the directory is replaced."""
    content = marker_content((directory / MARKER).read_bytes())
    if content is not None and content["id"] == _owner(directory):
        os.close(mark(directory, _owner(directory), [*content["files"], name]))


def _owner(output: Path) -> str:
    return identity("packed log", output)
