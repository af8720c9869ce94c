"""Quantized tables inside a TensorFlow graph, and in the variables of a SavedModel, part by part."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorflow as tf

from keras_dlrm.embeddings.quantized import layout, quantize
from keras_dlrm.export.tables.stored_tables import StoredStack, StoredTables

_DATA = "variables"
# Behind the name of each variable in a checkpoint.
VALUE = ".ATTRIBUTES/VARIABLE_VALUE"


class _Tape:
    """A tape for `lookup.taped`: only the gathered rows are converted to float32."""

    #: Frozen tables, too.
    every_table = True

    #: By the id of a table: its stored arrays by name, maybe with `"map"` from rows to kept ones; their kind; D.
    _stored: dict[int, tuple[dict[str, Any], str, int]]

    @property
    def arrays(self) -> dict[int, dict[str, Any]]:
        """Stored arrays of each table, by name."""
        return {key: arrays for key, (arrays, _, _) in self._stored.items()}

    def lookup(self, table: Any, ids: Any) -> Any:
        """Rows of a table, float32 (*ids.shape, D); zeros where an id is -1."""
        arrays, kind, width = self._stored[id(table)]
        real = ids >= 0
        places = tf.maximum(ids, 0)
        if "map" in arrays:
            places = tf.gather(arrays["map"], places)
            real = tf.logical_and(real, places >= 0)
            places = tf.maximum(places, 0)
        gathered = {name: tf.gather(array, places) for name, array in arrays.items() if name != "map"}
        rows = gathered["codes"]
        if kind == "int4":
            # Not a shift and a mask: TensorFlow Lite has neither for uint8.
            pair = tf.cast(rows, tf.int32)
            high = pair // 16
            rows = tf.concat([pair - 16 * high, high], axis=-1)[..., :width]
        rows = _float32(rows)
        if "scale" in gathered:
            rows *= _float32(gathered["scale"])
        if "offset" in gathered:
            rows += _float32(gathered["offset"])
        return tf.where(real[..., tf.newaxis], rows, tf.zeros_like(rows))


class TensorFlowTables(_Tape):
    """Stored tables of a model on the TensorFlow backend, instead of its own.

    Trace a function with this tape and the model's own code runs on them; save the function with `weights(model)`, in which they
    have the place of the model's tables. Those in the model's own dtype that are not pruned are used where they are, without a
    copy. With `bits` bfloat16 is stored as int16 of the same bits, for TensorFlow Lite, which does not gather bfloat16.
    """

    def __init__(self, stored: StoredTables, bits: bool = False) -> None:
        self._stored = {id(s.variable): (_arrays(s, bits), s.kind, s.stack.width) for s in stored.stacks}

    def weights(self, model: Any) -> list[Any]:
        """The `tf.Variable`s that a function traced with this tape reads: the model's, but for tables that are replaced."""
        own = [v.value for v in model.weights if id(v) not in self._stored]
        return [*own, *(array for arrays in self.arrays.values() for array in arrays.values())]


def _float32(x: Any) -> Any:
    if x.dtype == tf.int16:  # the upper half of a float32
        return tf.bitcast(tf.cast(x, tf.int32) * 65536, tf.float32)
    return tf.cast(x, tf.float32)


def _in_bits(array: np.ndarray, bits: bool) -> np.ndarray:
    return array.view(np.int16) if bits and array.dtype.name == "bfloat16" else array


def _arrays(stack: StoredStack, bits: bool) -> dict[str, Any]:
    """The variables that hold a stack's kept rows, filled part by part."""
    variable = stack.variable.value
    here = getattr(stack.variable, "host", None) is None
    if here and stack.pruned is None and variable.dtype.name == stack.kind and not (bits and stack.kind == "bfloat16"):
        return {"codes": variable}
    variables = {}
    for name, (dtype, columns) in stack.layout.items():
        zeros = tf.zeros((stack.kept, columns), tf.as_dtype(_in_bits(np.zeros(1, dtype), bits).dtype))
        variables[name] = tf.Variable(zeros, trainable=False, name=f"{stack.name}_{name}")
    done = 0
    for rows in stack.kept_rows():
        for name, array in quantize(rows, stack.kind).arrays.items():
            variables[name][done : done + len(array)].assign(_in_bits(array, bits))
        done += len(rows)
    if stack.pruned is not None:
        variables["map"] = tf.Variable(stack.row_map().astype(np.int32), trainable=False, name=f"{stack.name}_map")
    return variables


class ServedTables(_Tape):
    """Tables of a graph, of one row each until `replace_rows` gives a saved one its rows.

    Each stand-in of a model's collection has a kind, see `quantized.KINDS`, and a map to its kept rows, or `None`: all are.
    """

    def __init__(self, tables: Sequence[Any], stored: Sequence[str], maps: Sequence[np.ndarray | None]) -> None:
        self._stored = {}
        for table, kind, row_map in zip(tables, stored, maps, strict=True):
            width = table.shape[1]
            arrays = {
                name: tf.Variable(tf.zeros([1, columns], dtype), shape=[None, columns], trainable=False, name=name)
                for name, (dtype, columns) in layout(kind, width).items()
            }
            if row_map is not None:
                arrays["map"] = tf.Variable(row_map, trainable=False, name="map")
            self._stored[id(table)] = arrays, kind, width


Part = tuple[int, int, int, Mapping[str, np.ndarray]]


def parts(rows: IO[bytes], tables: Sequence[Sequence[Any]]) -> Iterator[Part]:
    """Float32 rows of tables as they come from another process → parts as of `replace_rows`.

    Of each table there are the number of rows, the width, the rows of a part, the kind.
    """
    for number, (count, width, part, kind, *_) in enumerate(tables):
        for start in range(0, count, part):
            length = min(part, count - start)
            data = rows.read(4 * length * width)
            if len(data) != 4 * length * width:
                raise RuntimeError("the tables ended early; the exporting process was stopped.")
            values = np.frombuffer(data, np.float32).reshape(length, width)
            yield number, count, start, quantize(values, kind).arrays


def table_key(number: int, name: str) -> str:
    """Name of a table's array in the variables of a SavedModel."""
    return f"tables/{number}/{name}/{VALUE}"


def replace_rows(model: Path, parts: Iterator[Part], others: Mapping[str, Any] | None = None) -> None:
    """Give the tables of a written SavedModel their rows.

    A tensor may stand in a checkpoint as slices, of files of its own; whoever restores it puts them together. The module in the
    folder `model` has the `tables` of `ServedTables`; `parts` are number, rows and start of each, and stored arrays by name.
    `others` are the other variables, in place of those that are there.
    """
    folder = model / _DATA
    folder.mkdir(exist_ok=True)
    prefix = str(folder / _DATA)
    if others is None:
        reader = tf.train.load_checkpoint(prefix)
        dtypes = reader.get_variable_to_dtype_map()
        keys = [key for key in dtypes if not re.match(r"tables/\d+/(?!map/)", key)]
        others = {key: tf.constant(reader.get_tensor(key), dtypes[key]) for key in keys}
        del reader
    prefixes = [f"{prefix}_others"]
    tf.raw_ops.SaveV2(
        prefix=prefixes[0], tensor_names=list(others), shape_and_slices=[""] * len(others), tensors=list(others.values())
    )
    for number, rows, start, arrays in parts:
        prefixes.append(f"{prefix}_{len(prefixes)}")
        tf.raw_ops.SaveV2(
            prefix=prefixes[-1],
            tensor_names=[table_key(number, name) for name in arrays],
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
