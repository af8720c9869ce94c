"""Files of an ONNX export: external tables, checksums, metadata, and a session that reads them."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.files.checksums import OPEN_SEAL, Done, check_seal, digest
from keras_dlrm.files.inventory import check_contents, check_sizes, inventory

# Arrays begin at multiples of this, so that they can be mapped.
_PAGE = 1 << 16
_FILES, _SEAL = "keras_dlrm.files", "keras_dlrm.checksum"


def add_checksums(model: Any, data: Path | None) -> None:
    """Add to a ModelProto, whose file is then to be sealed, what `check` compares: also the checksum of the file of tables."""
    files = {} if data is None else inventory(data.parent, [data.name])
    for key, value in ((_FILES, json.dumps(files)), (_SEAL, OPEN_SEAL)):
        model.metadata_props.add(key=key, value=value)


def check(path: Path, done: Done = lambda size: None) -> list[Path] | None:
    """The files of an ONNX model, compared with their checksums; `None` without one. A `ValueError` names a damaged file."""
    if not check_seal(path):
        return None
    done(path.stat().st_size)
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    entries = json.loads(properties[_FILES])
    places = check_sizes(path.parent, entries, path)
    check_contents(places, entries, done)
    return [path, *places.values()]


def regions(stored: Any) -> list[tuple[str, np.dtype, tuple[int, ...], int, int]]:
    """Arrays of `StoredTables` in their file: name, dtype, shape, offset and length; each begins at a page."""
    places: list[tuple[str, np.dtype, tuple[int, ...], int, int]] = []
    offset = 0
    for stack in stored.stacks:
        arrays: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
            name: (dtype, (stack.rows, columns)) for name, (dtype, columns) in stack.layout.items()
        }
        if stack.pruned is not None:
            arrays["map"] = np.dtype(np.int32), (stack.places,)
        for name, (dtype, shape) in arrays.items():
            length = int(np.prod(shape)) * dtype.itemsize
            places.append((f"{stack.name}.{name}", dtype, shape, offset, length))
            offset += -(-length // _PAGE) * _PAGE
    return places


def write_data(stored: Any, folder: Path, name: str) -> Path:
    """Write the tables' file a part at a time, and call it after its checksum."""
    places = {name: offset for name, _, _, offset, _ in regions(stored)}
    with open(folder / "data", "wb") as file:
        for stack in stored.stacks:
            for part in [*stack.parts(), {"map": stack.map()}] if stack.pruned is not None else stack.parts():
                for key, array in part.items():
                    data = array.tobytes()
                    file.seek(places[f"{stack.name}.{key}"])
                    file.write(data)
                    places[f"{stack.name}.{key}"] += len(data)
    return (folder / "data").rename(folder / f"{name}.{digest(folder / 'data')[:8]}.data")


def remove_other_data(path: Path, kept: str | None) -> None:
    """Remove the files of tables that earlier exports to the same path left: those whose content is what their name says."""
    ours = re.compile(re.escape(path.name) + r"\.([0-9a-f]{8})\.data")
    for other in path.parent.iterdir():
        named = ours.fullmatch(other.name)
        if named and other.name != kept and stat.S_ISREG(other.lstat().st_mode) and digest(other)[:8] == named[1]:
            other.unlink(missing_ok=True)


def metadata(schema: Any, stored: Any) -> dict[str, str]:
    """Properties of the file: the schema, if there is one, and where each logical table is."""
    tables = [
        {"table": table.name, "tensor": stack.name, "first_place": int(first), "rows": table.rows, "stored_as": stack.kind}
        for stack in stored.stacks
        for table, first in zip(stack.stack.tables, stack.table_places, strict=True)
    ]
    schemas = {} if schema is None else {"keras_dlrm.schema": schema.to_json()}
    return {**schemas, "keras_dlrm.tables": json.dumps(tables)}


def new_session(path: Path, threads: int | None = None, verify: bool = True) -> Any:
    """An ONNX Runtime session on the CPU; with `verify` all is read first, and a `ValueError` names a damaged file."""
    if verify:
        check(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
