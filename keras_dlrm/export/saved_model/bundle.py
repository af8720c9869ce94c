"""Tables into the variables of a SavedModel, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm.export.tables.quantized import layout, quantize
from keras_dlrm.export.tables.taped_tables import stored_rows

_DATA = "variables"


class ServedTables:
    """Tables of a graph, of one row each until `replace_rows` gives a saved one its rows. A tape for `lookup.taped`.

    Args:
        tables: The stand-ins that a model's collection looks up.
        stored: The kind of each, see `quantized.KINDS`.
        maps: The map of each from rows to kept ones, int32 (rows,), or `None` where all are kept.
    """

    #: Frozen tables, too.
    every_table = True

    def __init__(self, tables: Sequence[Any], stored: Sequence[str], maps: Sequence[np.ndarray | None]) -> None:
        self.arrays: list[dict[str, Any]] = []
        self._by_table = {}
        for table, kind, row_map in zip(tables, stored, maps, strict=True):
            width = table.shape[1]
            arrays = {
                name: tf.Variable(tf.zeros([1, columns], dtype), shape=[None, columns], trainable=False, name=name)
                for name, (dtype, columns) in layout(kind, width).items()
            }
            if row_map is not None:
                arrays["map"] = tf.Variable(row_map, trainable=False, name="map")
            self.arrays.append(arrays)
            self._by_table[id(table)] = arrays, kind, width

    def lookup(self, table: Any, ids: Any) -> Any:
        """Rows of a table, float32 (*ids.shape, D); zeros where an id is -1."""
        return stored_rows(*self._by_table[id(table)], ids)


def replace_rows(model: Path, parts: Iterator[tuple[int, str, int, int, np.ndarray]]) -> None:
    """Give the tables of a written SavedModel their rows.

    A tensor may stand in a checkpoint as slices, of files of its own; whoever restores it puts them together.

    Args:
        model: Folder of the SavedModel, whose module has the arrays of `ServedTables` as `tables`.
        parts: Number, kind and rows of each table in order, where the part starts, and its float32 rows.
    """
    folder = model / _DATA
    prefix = str(folder / _DATA)
    reader = tf.train.load_checkpoint(prefix)
    dtypes = reader.get_variable_to_dtype_map()
    others = [key for key in dtypes if not is_part(key)]
    prefixes = [f"{prefix}_others"]
    tf.raw_ops.SaveV2(
        prefix=prefixes[0],
        tensor_names=others,
        shape_and_slices=[""] * len(others),
        tensors=[tf.constant(reader.get_tensor(key), dtypes[key]) for key in others],
    )
    del reader
    for number, kind, rows, start, values in parts:
        arrays: Mapping[str, np.ndarray] = quantize(values, kind).arrays
        prefixes.append(f"{prefix}_{len(prefixes)}")
        tf.raw_ops.SaveV2(
            prefix=prefixes[-1],
            tensor_names=[f"tables/{number}/{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in arrays],
            shape_and_slices=[f"{rows} {array.shape[1]} {start},{len(array)}:-" for array in arrays.values()],
            tensors=[tf.constant(array) for array in arrays.values()],
        )
    for file in folder.glob(f"{_DATA}.*"):
        file.unlink()
    # The files of the parts are renamed, not copied.
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=prefixes, destination_prefix=prefix, delete_old_dirs=False)
    for file in folder.iterdir():
        if not file.name.startswith(f"{_DATA}."):
            file.unlink()


def is_part(key: str) -> bool:
    """Whether a tensor of a checkpoint is one of those that `replace_rows` writes."""
    place = key.split("/")
    return place[0] == "tables" and place[2] != "map"
