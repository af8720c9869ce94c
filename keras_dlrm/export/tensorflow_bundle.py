"""Tables into the variables of a SavedModel, part by part: none of them is ever in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

_DATA = "variables"


class ServedTables:
    """Tables of a graph, of one row each until `replace_rows` gives a saved one its rows. A tape for `lookup.taped`.

    Args:
        tables: The stand-ins that a model's collection looks up.
        dtype: Of the rows.
    """

    def __init__(self, tables: list[Any], dtype: str) -> None:
        self.variables = [
            tf.Variable(
                tf.zeros([1, t.shape[1]], dtype), shape=[None, t.shape[1]], trainable=False, name=f"tables_{t.shape[1]}"
            )
            for t in tables
        ]
        self._by_table = {id(table): variable for table, variable in zip(tables, self.variables, strict=True)}

    def lookup(self, table: Any, ids: Any) -> Any:
        """Rows of a table, float32 (*ids.shape, D); zeros where an id is -1."""
        rows = tf.cast(tf.gather(self._by_table[id(table)], tf.maximum(ids, 0)), tf.float32)
        return tf.where(tf.expand_dims(ids >= 0, -1), rows, tf.zeros_like(rows))


def replace_rows(model: Path, parts: Iterator[tuple[int, int, int, np.ndarray]]) -> None:
    """Give the tables of a written SavedModel their rows.

    A tensor may stand in a checkpoint as slices, of files of its own; whoever restores it puts them together.

    Args:
        model: Folder of the SavedModel.
        parts: Of each table in order: its number, its rows, where the part starts, and float32 rows.
    """
    folder = model / _DATA
    prefix = str(folder / _DATA)
    reader = tf.train.load_checkpoint(prefix)
    dtypes = reader.get_variable_to_dtype_map()
    tables = table_keys(reader)
    others = [key for key in dtypes if key not in tables]
    prefixes = [f"{prefix}_others"]
    tf.raw_ops.SaveV2(
        prefix=prefixes[0],
        tensor_names=others,
        shape_and_slices=[""] * len(others),
        tensors=[tf.constant(reader.get_tensor(key), dtypes[key]) for key in others],
    )
    del reader
    for number, rows, start, values in parts:
        key = tables[number]
        prefixes.append(f"{prefix}_{len(prefixes)}")
        width = values.shape[1]
        tf.raw_ops.SaveV2(
            prefix=prefixes[-1],
            tensor_names=[key],
            shape_and_slices=[f"{rows} {width} {start},{len(values)}:-"],
            tensors=[tf.cast(values, dtypes[key])],
        )
    for file in folder.glob(f"{_DATA}.*"):
        file.unlink()
    # The files of the parts are renamed, not copied.
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=prefixes, destination_prefix=prefix, delete_old_dirs=False)
    for file in folder.iterdir():
        if not file.name.startswith(f"{_DATA}."):
            file.unlink()


def table_keys(reader: Any) -> list[str]:
    """Names of the tables in a checkpoint, in order."""
    found = {}
    for key in reader.get_variable_to_dtype_map():
        place = key.split("/")
        if place[0] == "tables":
            found[int(place[1])] = key
    return [found[number] for number in sorted(found)]
